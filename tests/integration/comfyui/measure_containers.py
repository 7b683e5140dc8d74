"""Run with ComfyUI's Python: memory of one attention call with q, k and v in ComfyUI's containers and without, through
the pack's override. Prints JSON.

python measure_containers.py COMFYUI
"""

import json
import weakref

import torch

from comfyui.bare import use_comfyui

GRID, HEADS, HEAD_DIM = (5, 18, 23), 3, 128  # 2,070 tokens: ragged in every tile size


def main() -> None:
    use_comfyui()
    with torch.inference_mode():
        print(json.dumps({name: measured(**options) for name, options in CASES.items()}))


CASES = {
    "sparse": {"sparse": True},
    "dense, model's own": {"sparse": False},
    "dense, chained, knows containers": {"sparse": False, "knows": True},
    "dense, chained, does not": {"sparse": False, "knows": False},
}


def frugal(q, k, v, heads, **kwargs):
    """Stands for kitchen's INT8 attention: packs q, k and v to a quarter, frees them, then computes something."""
    packed = []
    for container in (q, k, v):
        tensor = container if isinstance(container, torch.Tensor) else container.take()
        packed.append(tensor.clamp(-4, 4).mul(31).to(torch.int8))
        del tensor, container
    del q, k, v
    mean = torch.stack([x.float().div_(31).mean(1) for x in packed]).sum(0)
    return mean[:, None].expand(-1, packed[0].shape[1], -1).contiguous().mul(2)


def chained(knows: bool | None):
    """An override that was there before ours."""
    if knows is None:
        return None

    def override(func, q, k, v, heads, **kwargs):
        return frugal(q, k, v, heads)

    if knows:
        override.container_function = frugal
    return override


def measured(sparse: bool, knows: bool | None = None) -> dict:
    """Peak bytes with containers and without, bytes of one tensor, how many of q, k, v lived on, and equality."""
    import load_pack  # noqa: F401
    from comfy.ldm.modules.attention import AttentionTensorContainer, optimized_attention
    from sparse_vdit.kernels.grid import TokenGrid
    from sparse_vdit.kernels.patterns import Diagonal
    from sparse_vdit.nodes.host.core import fallback
    from sparse_vdit.nodes.host.hooks.override import CHAINED, attention_override
    from sparse_vdit.nodes.host.policies.plan import PlanPolicy
    from sparse_vdit.nodes.host.session.run import Run, as_current
    from sparse_vdit.plans.plan.plan import uniform_plan

    policy = PlanPolicy(uniform_plan("wan", 1, HEADS, HEAD_DIM, GRID, Diagonal(0)), 1.0, 0.0, "torch")
    run, grid = Run(policy), TokenGrid(*GRID)
    run.begin_step(0.5 if sparse else 2.0)
    policy.prepare(grid, 1, torch.device("cpu"))
    found, outputs = {}, {}
    ways = {"containers": attention_override, "tensors": lambda *args, **kw: attention_override(*args, **kw)}
    for way, override in ways.items():
        options = {"optimized_attention_override": override, CHAINED: chained(knows)}
        alive = []

        def call(options=options, alive=alive):
            generator = torch.Generator().manual_seed(2)
            run.tracker.begin_blocks(grid, fallback.NO_LAYER, False, options)
            run.tracker.begin_block(0, options)
            size = (1, GRID[0] * GRID[1] * GRID[2], HEADS * HEAD_DIM)
            boxes = []
            for _ in range(3):
                tensor = torch.randn(size, generator=generator)
                alive.append(weakref.ref(tensor))
                boxes.append(AttentionTensorContainer(tensor))
            del tensor
            out = optimized_attention(*boxes, HEADS, transformer_options=options)
            return out, [box.tensor is None for box in boxes]

        with as_current(run):
            call()  # what stays for later calls is made
            alive.clear()
            peak, (out, taken) = peak_bytes(call)
        outputs[way] = out
        lived = sum(reference() is not None for reference in alive)
        found[way] = {"peak": peak, "one": out.nbytes, "taken": all(taken), "alive": lived}
    sparse = run.stats.total().sparse  # 2 ways, called twice
    return {**found, "equal": torch.equal(*outputs.values()), "sparse": sparse}


def peak_bytes(call) -> tuple[int, object]:
    """Most bytes that PyTorch's allocator had given out at once during a call, and the call's result."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak, result


if __name__ == "__main__":
    main()
