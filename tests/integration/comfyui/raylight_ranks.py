"""Run with ComfyUI's Python: the node for raylight on processes that share the sequence of ComfyUI's own Wan, and the
same in one process. Prints JSON: what each rank said and how far it is from what, by case.

python raylight_ranks.py COMFYUI WEIGHTS FOLDER
"""

import builtins
import contextlib
import io
import json
import marshal
import os
import sys
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace

import torch
import torch.distributed as dist
import torch.multiprocessing

from comfyui.bare import use_comfyui

RANKS, LAYERS, HEADS = 2, 4, 3
STEPS, CFG = 2, 3.0
ODD, EVEN = (5, 7, 11), (4, 6, 11)
"""Frames, height and width in tokens."""

NODE_VALUES = {"plain": (0.0, 1.0), "late": (0.3, 1.0), "never": (1.0, 1.0)}
"""start_percent and end_percent, by case."""


def plan(heads: int = HEADS, name: str = "mine") -> object:
    """Every kind of head, and a layer whose heads are all dense."""
    from sparse_vdit.kernels.patterns import Dense, Diagonal, Routed, Skip
    from sparse_vdit.plans.plan.plan import Band, Plan, Provenance

    patterns = (Diagonal(0), Routed(0.4), Dense(), Skip())
    rows = ((0, 1, 2), (3, 0, 1), (2, 2, 2), (0, 3, 3))
    rows = tuple((row * heads)[:heads] for row in rows)
    return Plan("wan", LAYERS, heads, 128, ODD, patterns, (Band(1e6, 0.0, rows),), "measured", Provenance()).named(name)


def loaded(weights: str) -> object:
    """MODEL of the small Wan."""
    import comfy.sd

    return comfy.sd.load_diffusion_model(weights)


def sample(patcher: object, grid: tuple[int, int, int] = ODD) -> torch.Tensor:
    """Latents, as raylight's sampler makes them in a worker."""
    import comfy.sample

    frames, height, width = grid
    latent = torch.zeros(1, 16, frames, 2 * height, 2 * width)
    noise = comfy.sample.prepare_noise(latent, 5)
    texts = [[[torch.randn(1, 7, 4096, generator=torch.Generator().manual_seed(seed)), {}]] for seed in (1, 2)]
    return comfy.sample.sample(patcher, noise, STEPS, CFG, "euler", "simple", *texts, latent, disable_pbar=True, seed=5)


def sent_by_the_node() -> dict[str, list[tuple[bytes, tuple]]]:
    """What the node sends to each worker, by case: code of a function as Ray sends it, and arguments."""
    import load_pack  # noqa: F401

    sys.modules["ray"] = ModuleType("ray")
    sys.modules["ray"].get = lambda futures: [future() for future in futures]
    from sparse_vdit.nodes.patch_raylight import PatchRaylight

    def worker() -> SimpleNamespace:
        calls = []

        def remote(function, *args):
            assert function.__closure__ is None
            return lambda: calls.append((marshal.dumps(function.__code__), args))

        return SimpleNamespace(calls=calls, model_function_runner=SimpleNamespace(remote=remote))

    found = {}
    for case, values in NODE_VALUES.items():
        actors = {"workers": [worker() for _ in range(RANKS)]}
        (given,) = PatchRaylight.execute(actors, plan(), *values).args
        assert given is actors
        found[case] = [call for each in actors["workers"] for call in each.calls]
    other = {"workers": [worker() for _ in range(RANKS)]}
    PatchRaylight.execute(other, plan(4, "another"), 0.0, 1.0)
    return {**found, "other": [call for each in other["workers"] for call in each.calls]}


def one_process(weights: str) -> dict[str, torch.Tensor]:
    """Sparse latents of the pack in one process, by the size of the video."""
    from sparse_vdit.nodes.host.hooks.install import install
    from sparse_vdit.nodes.host.policies.plan import PlanPolicy

    patcher = loaded(weights).clone()
    install(patcher, lambda sampling: PlanPolicy(plan(), 1e6, 0.0), lambda run: None)
    return {"odd": sample(patcher), "even": sample(patcher, EVEN)}


class Worker:
    """A worker of raylight: a MODEL, and what replaces it."""

    def __init__(self, weights: str):
        import comfy.patcher_extension

        self.rank, self.weights, self.model = dist.get_rank(), weights, loaded(weights)
        self.model.add_callback(comfy.patcher_extension.CallbacksMP.ON_LOAD, self._inject)

    def _inject(self, *args: object) -> None:
        from comfyui.ulysses_wan import inject

        inject(*args)

    def take(self, calls: list[tuple[bytes, tuple]]) -> None:
        """Run what the node sent to this rank, where nothing of the sender's modules is known."""
        code, args = calls[self.rank]
        function = FunctionType(marshal.loads(code), {"__builtins__": builtins})
        self.model = function(self.model, *args)

    def sampled(self, grid: tuple[int, int, int] = ODD) -> tuple[torch.Tensor, str]:
        """Latents, and what this worker said."""
        with contextlib.redirect_stdout(io.StringIO()) as said:
            out = sample(self.model, grid)
        return out, said.getvalue()


@contextlib.contextmanager
def trouble(worker: Worker, rank: int, kind: str, call: int = 2):
    """A rank's kernel fails, or gives what is not finite, in its `call`th call alone."""
    from sparse_vdit.kernels.backends import torch_backend

    plain, calls = torch_backend.attention, []

    def attention(*args, **kwargs):
        calls.append(1)
        out = plain(*args, **kwargs)
        if len(calls) == call and kind == "error":
            raise RuntimeError("trouble was asked for")
        return out * float("nan") if len(calls) == call else out

    torch_backend.attention = attention if worker.rank == rank else plain
    try:
        yield
    finally:
        torch_backend.attention = plain


@contextlib.contextmanager
def unprepared(worker: Worker, rank: int):
    """Preparing a forward fails on one rank."""
    from sparse_vdit.nodes.host.raylight import Ranks

    plain = Ranks._prepare
    if worker.rank == rank:
        Ranks._prepare = lambda *args: 1 / 0
    try:
        yield
    finally:
        Ranks._prepare = plain


def work(rank: int, weights: str, folder: str, sent: dict) -> None:
    """All cases on one rank, one after the other in one worker; saves (latents, said) by case."""
    use_comfyui()
    from comfyui.ulysses_wan import offer_groups

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, init_method=f"file://{folder}/rendezvous")
    offer_groups(dist.group.WORLD)
    worker, found = Worker(weights), {}
    with torch.inference_mode():
        found["dense"], found["dense, even"] = worker.sampled(), worker.sampled(EVEN)  # it is loaded from here on
        worker.take(sent["plain"])
        forward = worker.model.model.diffusion_model.blocks[0].self_attn.forward
        found["sparse"], found["sparse, even"] = worker.sampled(), worker.sampled(EVEN)
        with trouble(worker, 1, "error"):
            found["error"] = worker.sampled()
        with trouble(worker, 0, "not finite"):
            found["not finite"] = worker.sampled()
        with unprepared(worker, 1):
            found["unprepared"] = worker.sampled()
        found["sparse again"] = worker.sampled()
        for case in ("late", "never", "other"):
            worker.take(sent[case])
            found[case] = worker.sampled()
        worker.take(sent["plain"])
        with numbers_spoiled(worker, 1):
            found["model's own numbers"] = worker.sampled()
        found.update(unknown(worker))
        assert worker.model.model.diffusion_model.blocks[0].self_attn.forward == forward
        worker.model = loaded(weights)
        worker.take(sent["plain"])
        found["not split"] = worker.sampled()
        offer_groups(dist.new_group([rank], use_local_synchronization=True))
        found["one rank in a group"] = worker.sampled()
    torch.save(found, Path(folder, f"rank{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


@contextlib.contextmanager
def numbers_spoiled(worker: Worker, rank: int):
    """The model itself makes a NaN, in one token of one rank."""
    layer = worker.model.model.diffusion_model.blocks[1].self_attn.v

    def spoil(layer, args, out):
        return out.index_fill(1, torch.tensor([3]), float("nan")) if worker.rank == rank else out

    hook = layer.register_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()


def unknown(worker: Worker) -> dict[str, tuple[torch.Tensor, str]]:
    """Forwards that the plan is not about, and compiled ones."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    from comfyui import ulysses_wan

    patched, found = worker.model, {}
    ulysses_wan.EXTRA = RANKS
    found["more tokens"] = worker.sampled()
    ulysses_wan.EXTRA = 0
    worker.model = patched.clone()
    worker.model.set_model_attn1_patch(type("MultiTalkPatch", (), {})())
    found["talking"] = worker.sampled()
    worker.model = patched.clone()
    set_torch_compile_wrapper(model=worker.model, backend="eager")
    found["compiled"] = worker.sampled()
    worker.model = patched
    return found


def main() -> None:
    weights, folder = use_comfyui()
    sent = sent_by_the_node()
    with torch.inference_mode():
        one = one_process(weights)
    torch.multiprocessing.spawn(work, (weights, folder, sent), RANKS)
    ranks = [torch.load(Path(folder, f"rank{rank}.pt")) for rank in range(RANKS)]
    near = {"even" in case: ranks[0][case][0] for case in ("dense", "dense, even")}

    def distance(x: torch.Tensor, truth: torch.Tensor) -> float:
        return float((x.double() - truth.double()).norm() / truth.double().norm())

    found = {
        case: {
            "said": [rank[case][1] for rank in ranks],
            "to each other": float((first - ranks[1][case][0]).abs().max()),
            "to dense": distance(first, near["even" in case]),
            "to one process": distance(first, one["even" if "even" in case else "odd"]),
        }
        for case, (first, _) in ranks[0].items()
    }
    print(json.dumps({**found, **expected()}))


def expected() -> dict:
    """Mean density of the layers that are not all dense, and heads of the first rank by layer, None where it is."""
    from sparse_vdit.kernels.sequence_parallel import deal_heads

    densities = plan().pattern_densities()
    rows = [[densities[number] for number in row] for row in plan().bands[0].heads]
    sparse = [row for row in rows if min(row) < 1]
    heads = [deal_heads(row, RANKS)[0] if row in sparse else None for row in rows]
    return {"density": sum(map(sum, sparse)) / len(sparse) / HEADS, "heads of the first": heads}


if __name__ == "__main__":
    main()
