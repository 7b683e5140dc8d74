"""Run with ComfyUI's Python: writes small checkpoints of every family, random weights under the keys of ComfyUI's own
classes, of which its loaders tell the model.

python family_models.py COMFYUI FOLDER [NAME ...]
"""

import json
import sys
from pathlib import Path

import torch

WAN = {"dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 3}
LARGE = ("wan_1.3b",)
"""As many layers and heads as a published model: 2 GB, made only when they are named."""
HUNYUAN = {
    **{"in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 96, "hidden_size": 256},
    **{"mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 3, "axes_dim": [16, 56, 56], "theta": 256},
    **{"patch_size": [1, 2, 2], "qkv_bias": True, "guidance_embed": True, "byt5": False, "meanflow": False},
    **{"use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False},
}
HUNYUAN_15 = {
    **HUNYUAN,
    **{"in_channels": 65, "out_channels": 32, "vec_in_dim": None, "depth": 3, "depth_single_blocks": 0},
    **{"patch_size": [1, 1, 1], "guidance_embed": False, "byt5": True, "use_cond_type_embedding": True},
    **{"vision_in_dim": 1152, "meanflow_sum": True},
}
COG = {
    **{"num_attention_heads": 2, "attention_head_dim": 64, "time_embed_dim": 64, "num_layers": 3, "in_channels": 16},
    **{"text_embed_dim": 96, "use_rotary_positional_embeddings": True},
}
LEARNED = {
    **{"use_rotary_positional_embeddings": False, "use_learned_positional_embeddings": True},
    "num_attention_heads": 3,  # ComfyUI cuts positions of three axes out of all channels
}
H3 = {
    **{"hidden_size": 256, "num_layers": 3, "token_refiner_num_layers": 1, "num_attention_heads": 2},
    **{"ffn_hidden_size": 256, "text_dim": 96, "timestep_input_dim": 64, "time_embed_hidden_size": 64},
    "time_embed_dim": 64,
}
LTX = {"num_attention_heads": 2, "attention_head_dim": 64, "cross_attention_dim": 128, "caption_channels": 96}
LTX_AV = {
    **{**LTX, "attention_head_dim": 128, "cross_attention_dim": 256},
    **{"audio_num_attention_heads": 2, "audio_attention_head_dim": 32, "audio_cross_attention_dim": 64},
    **{"connector_attention_head_dim": 48, "connector_num_attention_heads": 2, "connector_num_layers": 1},
}


def main() -> None:
    comfyui, folder, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    begin(comfyui)
    from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel
    from comfy.ldm.hunyuan_video.model import HunyuanVideo
    from comfy.ldm.lightricks.av_model import LTXAVModel
    from comfy.ldm.lightricks.model import LTXVModel
    from comfy.ldm.minimax.model import MiniMaxH3Model
    from comfy.ldm.wan.model import (
        CameraWanModel,
        HumoWanModel,
        SCAIL2WanModel,
        SCAILWanModel,
        VaceWanModel,
        WanModel,
        WanModel_S2V,
    )
    from comfy.ldm.wan.model_animate import AnimateWanModel

    made = {
        "wan_t2v": (WanModel, {**WAN, "model_type": "t2v", "in_dim_ref_conv": 16}),
        "wan_i2v": (WanModel, {**WAN, "model_type": "i2v", "in_dim": 36}),
        "wan_5b": (WanModel, {**WAN, "model_type": "t2v", "in_dim": 48, "out_dim": 48}),
        "wan_vace": (VaceWanModel, {**WAN, "num_layers": 4, "vace_layers": 2, "vace_in_dim": 96}),
        "wan_camera": (CameraWanModel, {**WAN, "model_type": "camera", "in_dim": 32}),
        "wan22_i2v": (WanModel, {**WAN, "model_type": "t2v", "in_dim": 36}),
        "wan22_camera": (CameraWanModel, {**WAN, "model_type": "camera_2.2", "in_dim": 36}),
        "wan_fun": (WanModel, {**WAN, "model_type": "i2v", "in_dim": 48}),
        "wan_animate": (AnimateWanModel, {**WAN, "model_type": "animate", "in_dim": 36, "num_layers": 5}),
        "wan_scail2": (SCAIL2WanModel, {**WAN}),
        "wan_humo": (HumoWanModel, {**WAN}),
        "wan_scail": (SCAILWanModel, {**WAN}),
        "wan_s2v": (WanModel_S2V, {**WAN, "audio_inject_layers": [0, 2]}),
        "hunyuan": (HunyuanVideo, HUNYUAN),
        "hunyuan_i2v": (HunyuanVideo, {**HUNYUAN, "in_channels": 33}),
        "hunyuan_15": (HunyuanVideo, HUNYUAN_15),
        "cog": (CogVideoXTransformer3DModel, COG),
        "cog_2b": (CogVideoXTransformer3DModel, {**COG, **LEARNED}),
        "cog_i2v": (CogVideoXTransformer3DModel, {**COG, "in_channels": 32}),
        "cog_15": (CogVideoXTransformer3DModel, {**COG, "patch_size_t": 2}),
        "cog_15_i2v": (CogVideoXTransformer3DModel, {**COG, "patch_size_t": 2, "in_channels": 32, "ofs_embed_dim": 64}),
        "minimax_h3": (MiniMaxH3Model, H3),
        "ltxv": (LTXVModel, {**LTX, "num_layers": 3}),
        "ltxv_13b": (LTXVModel, {**LTX, "num_layers": 3, "attention_head_dim": 128, "cross_attention_dim": 256}),
        "ltxav": (LTXAVModel, {**LTX_AV, "num_layers": 3}),
        "wan_1.3b": (WanModel, {**WAN, "model_type": "t2v", "dim": 1536, "num_heads": 12, "num_layers": 30}),
    }
    for number, (name, (kind, settings)) in enumerate(made.items()):
        if name in names or (not names and name not in LARGE):
            write(folder / f"{name}.safetensors", kind, settings, number)


def begin(comfyui: str) -> None:
    """Make ComfyUI's modules importable, as it runs on a CPU."""
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path.insert(0, comfyui)
    import comfy.options

    comfy.options.enable_args_parsing()


def write(path: Path, kind: type, settings: dict, seed: int) -> None:
    """One checkpoint. Heads that ComfyUI cannot read from the weights stand in the metadata, as in real files."""
    import comfy.ops
    from safetensors.torch import save_file

    model = kind(operations=comfy.ops.disable_weight_init, dtype=torch.float32, device="cpu", **settings)
    weights = random_weights(model, seed)
    own = ("num_attention_heads", "audio_num_attention_heads", "caption_channels", "audio_inject_layers")
    given = kind.__name__.startswith(("LTX", "WanModel_S2V"))
    kept = {key: value for key, value in settings.items() if key in own or key.startswith(("audio", "att", "conn"))}
    config = {"transformer": kept} if given else {}
    save_file(weights, path, metadata={"config": json.dumps(config)} if config else None)


def random_weights(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Weights for a model by the keys of its own."""
    generator = torch.Generator().manual_seed(seed)
    return {name: random_weight(name, value, generator) for name, value in model.state_dict().items()}


def random_weight(name: str, value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Weights that keep activations of order 1 and let attention matter."""
    noise = torch.randn(value.shape, generator=generator)
    if name.endswith("inv_freq"):
        return 10000.0 ** -torch.linspace(0, 1, len(value))
    if value.ndim < 2:
        return 1 + 0.1 * noise if name.endswith("weight") else 0.02 * noise
    if "modulation" in name or "table" in name:
        return 0.3 * noise
    return noise * value[0].numel() ** -0.5


if __name__ == "__main__":
    main()
