"""Run with ComfyUI's Python: what a chained override is given by ComfyUI's own models, with the pack and without it.
Prints JSON: per model and way, transformer_options of each self-attention call as texts.

python compare_chained.py COMFYUI
"""

import json

import torch

from comfyui.bare import bare_models, guards_as_comfyui, use_comfyui
from comfyui.bare_runs import FixedClock, forward_of

GRID = (3, 4, 6)
TOKENS = GRID[0] * GRID[1] * GRID[2]
IGNORED = ("wrappers", "patches_replace", "optimized_attention_override")


class Recorder:
    """Keeps what the calls of self-attention are given; they are told by their length."""

    def __init__(self, tokens: int):
        self.tokens, self.calls = tokens, []

    def __call__(self, func, *args, **kwargs):
        if args[0].shape == args[1].shape and args[0].shape[-2] == self.tokens:
            options = kwargs["transformer_options"]
            given = {key: value for key, value in options.items() if key not in IGNORED and "sparse_vdit" not in key}
            self.calls.append({key: repr(value) for key, value in given.items()})
        return func(*args, **kwargs)


def main() -> None:
    use_comfyui()
    with torch.inference_mode():
        print(json.dumps({name: given(*case) for name, case in bare_models().items()}))


def given(model, text: int, inputs: tuple, kwargs: dict) -> dict[str, list[dict]]:
    """What is given without the pack, then with it: dense by plain code, compiled, and timed beside sparse calls."""
    import load_pack  # noqa: F401
    from sparse_vdit.kernels.patterns import Diagonal
    from sparse_vdit.nodes.host.hooks.own_attention import model_attention, undecorated
    from sparse_vdit.nodes.host.models import detect
    from sparse_vdit.nodes.host.policies import kernel_tuner
    from sparse_vdit.nodes.host.policies.plan import PlanPolicy
    from sparse_vdit.nodes.host.session.run import Run
    from sparse_vdit.plans.plan.plan import uniform_plan

    family = detect(model)
    tokens = TOKENS + text
    args = (torch.randn(1, 16, GRID[0], 2 * GRID[1], 2 * GRID[2]), *inputs)
    alone = Recorder(tokens)
    model(*args, **kwargs, transformer_options={"optimized_attention_override": alone, "cond_or_uncond": [0]})
    found = {"alone": alone.calls}
    compiled = torch.compile(model, backend="aot_eager", options={"guard_filter_fn": guards_as_comfyui})
    for way, sigma in (("plain", 0.9), ("compiled", 0.9), ("plain, timed", 0.5), ("compiled, timed", 0.5)):
        plan = uniform_plan(family.name, *family.shape(model), (9, 16, 24), Diagonal(0))
        policy, recorder = PlanPolicy(plan, 0.8, 0.0, "torch"), Recorder(tokens)
        kernel_tuner.forget_times()  # of the way before
        policy.tuner = kernel_tuner.KernelTuner()  # of a named backend too
        own = undecorated(model_attention(model)), recorder
        run = Run(policy, own, FixedClock(dense=9.0, exact=1.0))
        torch._dynamo.reset()
        with forward_of(run, sigma, recorder, cond_or_uncond=[0]) as options:
            (compiled if "compiled" in way else model)(*args, **kwargs, transformer_options=options)
        found[way] = recorder.calls
        found[f"{way}: sparse"] = run.stats.total().sparse
    return found


if __name__ == "__main__":
    main()
