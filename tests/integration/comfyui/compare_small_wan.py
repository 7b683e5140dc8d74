"""Run with ComfyUI's Python: its Wan against the tests' small Wan, same weights, same input; and its image-to-video and
48-channel models through the pack's override. Prints JSON.

python compare_small_wan.py COMFYUI WEIGHTS
"""

import json

import torch

from comfyui.bare import use_comfyui
from comfyui.bare_runs import forward_of


def main() -> None:
    (weights,) = use_comfyui()
    import comfy.ops
    from comfy.ldm.wan.model import WanModel
    from safetensors.torch import load_file
    from small_wan.model import SmallWan

    state = {name: value.float() for name, value in load_file(weights).items()}
    ours = SmallWan().eval()
    ours.load_state_dict(state)
    settings = {"dim": 384, "ffn_dim": 1024, "num_heads": 3, "num_layers": 4, "dtype": torch.float32, "device": "cpu"}
    theirs = WanModel("t2v", operations=comfy.ops.disable_weight_init, **settings).eval()
    theirs.load_state_dict(state)
    differences = []
    with torch.inference_mode():
        for seed, (frames, height, width) in enumerate([(5, 16, 22), (3, 18, 14), (1, 8, 10)]):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(2, 16, frames, height, width, generator=generator)
            timestep = torch.tensor([937.0, 41.0])
            context = torch.randn(2, 4, 4096, generator=generator)
            truth = theirs(x, timestep, context)
            differences.append(float((ours(x, timestep, context) - truth).norm() / truth.norm()))
    print(json.dumps({"small_wan": differences, "variants": variants()}))


def variants() -> dict[str, tuple[float, float, int]]:
    """Per model with random weights: relative difference of an all-dense and of a sparse plan to the unpatched output,
    and the sparse calls of the latter."""
    import comfy.ops
    import load_pack  # noqa: F401
    from comfy.ldm.wan.model import WanModel
    from sparse_vdit.kernels.patterns import Dense, Diagonal
    from sparse_vdit.nodes.host.policies.plan import PlanPolicy
    from sparse_vdit.nodes.host.session.run import Run
    from sparse_vdit.plans.plan.plan import uniform_plan

    found = {}
    settings = {"dim": 384, "ffn_dim": 256, "num_heads": 3, "num_layers": 2, "dtype": torch.float32, "device": "cpu"}
    for name, kind, channels, out in (("wan2.1 i2v", "i2v", 36, 16), ("wan2.2 5b", "t2v", 48, 48)):
        torch.manual_seed(3)
        operations = comfy.ops.disable_weight_init
        model = WanModel(kind, in_dim=channels, out_dim=out, operations=operations, **settings).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        image = torch.randn(1, 257, 1280) if kind == "i2v" else None
        inputs = (torch.randn(1, channels, 5, 16, 22), torch.tensor([500.0]), torch.randn(1, 7, 4096))
        with torch.inference_mode():
            truth = model(*inputs, clip_fea=image)
            results = []
            for pattern in (Dense(), Diagonal(0)):
                run = Run(PlanPolicy(uniform_plan("wan", 2, 3, 128, (5, 8, 11), pattern), 1.0, 0.0, "torch"))
                with forward_of(run, 0.5) as options:
                    result = model(*inputs, clip_fea=image, transformer_options=options)
                results.append(float((result - truth).norm() / truth.norm()))
        found[name] = (*results, run.stats.total().sparse)
    return found


if __name__ == "__main__":
    main()
