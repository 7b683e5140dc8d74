"""ComfyUI's code without its server, for scripts that run with its Python: its modules, and its own models' classes."""

import sys

import torch

TEXT = 7  # tokens


def use_comfyui() -> list[str]:
    """Make ComfyUI's modules importable, on the CPU and with the options of the command line, which is COMFYUI and then
    the rest. Returns the rest that is no option."""
    comfyui, *rest = sys.argv[1:]
    sys.argv = [sys.argv[0], "--cpu", *(word for word in rest if word.startswith("--"))]
    sys.path.insert(0, comfyui)
    import comfy.options

    comfy.options.enable_args_parsing()
    return [word for word in rest if not word.startswith("--")]


def bare_models() -> dict[str, tuple]:
    """By family: a small model of ComfyUI's own class with random weights, its text tokens in self-attention, and what
    its forward takes after latents: positional arguments and others."""
    import comfy.ops
    from comfy.ldm.hunyuan_video.model import HunyuanVideo
    from comfy.ldm.wan.model import WanModel

    from comfyui.family_models import HUNYUAN, WAN

    time = torch.tensor([500.0])
    hunyuan = {"y": torch.randn(1, HUNYUAN["vec_in_dim"]), "guidance": torch.tensor([6.0])}
    text = torch.randn(1, TEXT, HUNYUAN["context_in_dim"])
    kinds = {
        "wan": (WanModel, {**WAN, "model_type": "t2v"}, 0, (time, torch.randn(1, TEXT, 4096)), {}),
        "hunyuan_video": (HunyuanVideo, HUNYUAN, TEXT, (time, text), hunyuan),
    }
    found = {}
    for family, (kind, settings, *inputs) in kinds.items():
        model = kind(operations=comfy.ops.disable_weight_init, dtype=torch.float32, device="cpu", **settings).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        found[family] = model, *inputs
    return found


def guards_as_comfyui(guards: list) -> list[bool]:
    """Which guards ComfyUI's compiler keeps: none on transformer_options."""
    return ["transformer_options" not in guard.name for guard in guards]
