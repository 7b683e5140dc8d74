"""Run with ComfyUI's Python: ComfyUI's own models compiled as its nodes compile them, beside plain code, on a landscape
video and on a portrait of as many tokens. Prints JSON: per model and way, for each forward the relative difference, the
token layouts met, and sparse and dense calls.

python compare_compiled.py COMFYUI [options of ComfyUI]
"""

import json

import torch

from comfyui.bare import bare_models, guards_as_comfyui, use_comfyui

LANDSCAPE, PORTRAIT = (5, 8, 11), (5, 11, 8)


def main() -> None:
    use_comfyui()
    with torch.inference_mode():
        print(json.dumps({name: compared(*case) for name, case in bare_models().items()}))


def compared(model, text: int, inputs: tuple, more: dict) -> dict[str, list[dict]]:
    """The model compiled as a whole, and its blocks compiled alone; every layer of the plan has another window."""
    import load_pack  # noqa: F401
    from sparse_vdit.kernels.patterns import Diagonal
    from sparse_vdit.nodes.host.attention import override
    from sparse_vdit.nodes.host.attention.own_attention import model_attention, undecorated
    from sparse_vdit.nodes.host.families import detect
    from sparse_vdit.nodes.host.runs.current import pop_run, push_run
    from sparse_vdit.nodes.host.runs.install import _diffusion_model
    from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
    from sparse_vdit.nodes.host.runs.run import Run
    from sparse_vdit.plans.plan.plan import Band, Plan, Provenance

    family, _ = detect(model)
    layers, heads, head_dim = family.shape(model)
    patterns = tuple(Diagonal(0, 0.1 + 0.1 * n) for n in range(layers))
    band = Band(1.0, 0.0, tuple((n,) * heads for n in range(layers)))
    plan = Plan(family.name, layers, heads, head_dim, LANDSCAPE, patterns, (band,), "measured", Provenance())

    def sample(function, grid: tuple[int, int, int]):
        """Output and run of one forward."""
        run = Run(PlanEngine(plan, 1.0, 0.0, "torch"), undecorated(model_attention(model)))
        run.reason = run.engine.reason(0.5)
        options = {
            "optimized_attention_override": override.attention_override,
            override.CHAINED: None,
            override.REFUSED: [],
            "wrappers": {"diffusion_model": {"sparse_vdit": [_diffusion_model]}},
        }
        frames, height, width = grid
        x = torch.randn(1, 16, frames, 2 * height, 2 * width, generator=torch.Generator().manual_seed(3))
        run.options = dict(options)
        push_run(run)
        override.sampling = True
        try:
            run.begin_forward(x.device, 0.5)
            return function(x, *inputs, **more, transformer_options=options), run
        finally:
            override.sampling = False
            pop_run(run)

    found = {}
    plain = {grid: sample(model, grid)[0] for grid in (LANDSCAPE, PORTRAIT)}
    for way in ("whole", "blocks"):
        torch._dynamo.reset()
        function = compiled(model) if way == "whole" else compiled_blocks(model)
        found[way] = []
        for grid in (LANDSCAPE, PORTRAIT, LANDSCAPE, PORTRAIT):
            out, run = sample(function, grid)
            difference = (out - plain[grid]).norm() / plain[grid].norm()
            found[way].append({
                "difference": float(difference), "layouts": [list(layout[:3]) for layout in run.ledger.layouts],
                "sparse": run.ledger.sparse, "dense": dict(run.ledger.dense_reasons()),
            })  # fmt: skip
    found["apart"] = float((plain[LANDSCAPE].flatten() - plain[PORTRAIT].flatten()).norm() / plain[LANDSCAPE].norm())
    return found


def compiled(module):
    """As ComfyUI's node compiles, with a backend that takes no compiler."""
    return torch.compile(module, backend="eager", options={"guard_filter_fn": guards_as_comfyui})


def compiled_blocks(model):
    """The model with every block compiled alone, as other nodes do."""
    for name in ("blocks", "double_blocks", "single_blocks"):
        if hasattr(model, name):
            setattr(model, name, torch.nn.ModuleList([compiled(block) for block in getattr(model, name)]))
    return model


if __name__ == "__main__":
    main()
