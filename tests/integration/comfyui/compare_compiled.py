"""Run with ComfyUI's Python: ComfyUI's own models compiled as its nodes compile them, beside plain code, on a landscape
video and on a portrait of as many tokens. Prints JSON: per model and way, for each forward the relative difference, the
token layouts met, and sparse and dense calls.

python compare_compiled.py COMFYUI [options of ComfyUI]
"""

import json

import torch

from comfyui.bare import bare_models, guards_as_comfyui, use_comfyui
from comfyui.bare_runs import forward_of

LANDSCAPE, PORTRAIT = (5, 8, 11), (5, 11, 8)


def main() -> None:
    use_comfyui()
    with torch.inference_mode():
        print(json.dumps({name: compared(*case) for name, case in bare_models().items()}))


def compared(model, text: int, inputs: tuple, more: dict) -> dict[str, list[dict]]:
    """The model compiled as a whole, and its blocks compiled alone; every layer of the plan has another window."""
    import load_pack  # noqa: F401
    from sparse_vdit.kernels.patterns import Diagonal
    from sparse_vdit.nodes.host.hooks.own_attention import model_attention, undecorated
    from sparse_vdit.nodes.host.models import detect
    from sparse_vdit.nodes.host.policies.plan import PlanPolicy
    from sparse_vdit.nodes.host.session.run import Run
    from sparse_vdit.plans.plan.plan import Band, Plan, Provenance

    family = detect(model)
    layers, heads, head_dim = family.shape(model)
    patterns = tuple(Diagonal(0, 0.1 + 0.1 * n) for n in range(layers))
    band = Band(1.0, 0.0, tuple((n,) * heads for n in range(layers)))
    plan = Plan(family.name, layers, heads, head_dim, LANDSCAPE, patterns, (band,), "measured", Provenance())

    def sample(function, grid: tuple[int, int, int]):
        """Output and counts of one forward."""
        run = Run(PlanPolicy(plan, 1.0, 0.0, "torch"), (undecorated(model_attention(model)), None))
        frames, height, width = grid
        x = torch.randn(1, 16, frames, 2 * height, 2 * width, generator=torch.Generator().manual_seed(3))
        with forward_of(run, 0.5) as options:
            return function(x, *inputs, **more, transformer_options=options), run.stats.total()

    found = {}
    plain = {grid: sample(model, grid)[0] for grid in (LANDSCAPE, PORTRAIT)}
    for way in ("whole", "blocks"):
        torch._dynamo.reset()
        function = compiled(model) if way == "whole" else compiled_blocks(model)
        found[way] = []
        for grid in (LANDSCAPE, PORTRAIT, LANDSCAPE, PORTRAIT):
            out, counts = sample(function, grid)
            difference = (out - plain[grid]).norm() / plain[grid].norm()
            found[way].append({
                "difference": float(difference), "layouts": [list(met.shape) for met in counts.grids],
                "sparse": counts.sparse, "dense": {str(why): calls for why, calls in counts.self_attention().items()},
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
