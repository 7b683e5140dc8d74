"""Run with ComfyUI's Python: its Wan against the tests' small Wan, same weights, same input. Prints JSON.

python compare_small_wan.py COMFYUI WEIGHTS
"""

import json
import sys

import torch


def main() -> None:
    comfyui, weights = sys.argv[1:]
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path.insert(0, comfyui)
    import comfy.options

    comfy.options.enable_args_parsing()
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
    print(json.dumps(differences))


if __name__ == "__main__":
    main()
