"""Run with ComfyUI's Python: what a chained override is given by ComfyUI's own models, with the pack and without it.
Prints JSON: per model and way, transformer_options of each self-attention call as texts.

python compare_chained.py COMFYUI
"""

import json

import torch

from comfyui.bare import bare_models, guards_as_comfyui, use_comfyui

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
    from races import TestClock
    from sparse_vdit.kernels.patterns import Diagonal
    from sparse_vdit.nodes.host.attention import override
    from sparse_vdit.nodes.host.attention.own_attention import model_attention, undecorated
    from sparse_vdit.nodes.host.families import detect
    from sparse_vdit.nodes.host.runs.current import pop_run, push_run
    from sparse_vdit.nodes.host.runs.install import _diffusion_model
    from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
    from sparse_vdit.nodes.host.runs.run import Run
    from sparse_vdit.nodes.host.speed import speeds
    from sparse_vdit.nodes.host.speed.race import Race
    from sparse_vdit.plans.plan.plan import uniform_plan

    family, _ = detect(model)
    tokens = TOKENS + text
    args = (torch.randn(1, 16, GRID[0], 2 * GRID[1], 2 * GRID[2]), *inputs)
    alone = Recorder(tokens)
    model(*args, **kwargs, transformer_options={"optimized_attention_override": alone, "cond_or_uncond": [0]})
    found = {"alone": alone.calls}
    compiled = torch.compile(model, backend="aot_eager", options={"guard_filter_fn": guards_as_comfyui})
    for way, sigma in (("plain", 0.9), ("compiled", 0.9), ("plain, timed", 0.5), ("compiled, timed", 0.5)):
        plan = uniform_plan(family.name, *family.shape(model), (9, 16, 24), Diagonal(0))
        engine = PlanEngine(plan, 0.8, 0.0, "torch")
        engine.kernels.race = Race(("test",))
        run = Run(engine, undecorated(model_attention(model)), Recorder(tokens), clock=TestClock(dense=9.0, exact=1.0))
        options = {
            "optimized_attention_override": override.attention_override,
            override.CHAINED: run.chained,
            "wrappers": {"diffusion_model": {"sparse_vdit": [_diffusion_model]}},
            "cond_or_uncond": [0],
        }
        run.reason, run.options = engine.reason(sigma), dict(options)
        torch._dynamo.reset()
        speeds._known.clear()  # times of the way before
        push_run(run)
        override.sampling = True
        try:
            run.begin_forward(torch.device("cpu"), sigma)
            function = compiled if "compiled" in way else model
            function(*args, **kwargs, transformer_options=options)
        finally:
            override.sampling = False
            pop_run(run)
        found[way] = run.chained.calls
        found[f"{way}: sparse"] = run.ledger.sparse
    return found


if __name__ == "__main__":
    main()
