"""The models that `end_to_end.py` measures whole: what ComfyUI builds them from, their videos, and toys of each family.

Nothing here knows ComfyUI: settings are those that its detection reads from a real checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field

WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "in_dim": 16, "out_dim": 16, "patch_size": (1, 2, 2), "freq_dim": 256,
    "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
}  # fmt: skip
WAN_1_3B = {**WAN, "dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30}
WAN_14B = {**WAN, "dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
HUNYUAN = {
    "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2],
    "axes_dim": [16, 56, 56], "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072, "mlp_ratio": 4.0,
    "num_heads": 24, "depth": 20, "depth_single_blocks": 40, "theta": 256, "qkv_bias": True, "guidance_embed": True,
    "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
HUNYUAN_15 = {
    **HUNYUAN, "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None,
    "context_in_dim": 3584, "hidden_size": 2048, "num_heads": 16, "depth": 54, "depth_single_blocks": 0,
    "guidance_embed": False, "byt5": True, "use_cond_type_embedding": True, "vision_in_dim": 1152, "meanflow_sum": True,
}  # fmt: skip
COGVIDEOX_15 = {
    "image_model": "cogvideox", "num_attention_heads": 48, "attention_head_dim": 64, "time_embed_dim": 512,
    "num_layers": 42, "in_channels": 16, "patch_size": 2, "patch_size_t": 2, "text_embed_dim": 4096,
    "use_learned_positional_embeddings": False, "use_rotary_positional_embeddings": True,
}  # fmt: skip


@dataclass(frozen=True)
class WholeModel:
    """A model and a video.

    Attributes:
        kind: class of `comfy.supported_models`.
        settings: of the diffusion model.
        video: frames, height and width in pixels.
        latent: (channels, frames, height, width).
        text: tokens and channels of the prompt.
        warmup: part of the steps that stays dense in a generation of many steps.
        forwards: of one step of such a generation: two where each step is guided by a negative prompt.
        pooled: channels of the pooled text, 0 for none.
        compiled: whether it is measured under torch.compile too.
    """

    kind: str
    settings: dict = field(repr=False)
    video: tuple[int, int, int]
    latent: tuple[int, int, int, int]
    text: tuple[int, int]
    warmup: float = 0.2
    forwards: int = 2
    pooled: int = 0
    compiled: bool = False


UMT5, T5 = (512, 4096), (226, 4096)
LLAMA, QWEN = (256, 4096), (256, 3584)  # as long as the prompt: these are of some 200 words

MODELS = {  # the cheapest first, so that a run that ends early has most models
    "wan1_3b_480p": WholeModel("WAN21_T2V", WAN_1_3B, (81, 480, 832), (16, 21, 60, 104), UMT5),
    "wan14b_480p": WholeModel("WAN21_T2V", WAN_14B, (81, 480, 832), (16, 21, 60, 104), UMT5, compiled=True),
    "cogvideox15": WholeModel("CogVideoX_T2V", COGVIDEOX_15, (81, 768, 1360), (16, 21, 96, 170), T5, warmup=0.0),
    "wan1_3b_720p": WholeModel("WAN21_T2V", WAN_1_3B, (81, 720, 1280), (16, 21, 90, 160), UMT5),
    "wan14b_720p": WholeModel("WAN21_T2V", WAN_14B, (81, 720, 1280), (16, 21, 90, 160), UMT5),
    "hunyuan15_720p": WholeModel("HunyuanVideo15", HUNYUAN_15, (121, 720, 1280), (32, 31, 45, 80), QWEN),
    "hunyuan_720p": WholeModel(
        "HunyuanVideo", HUNYUAN, (129, 720, 1280), (16, 33, 90, 160), LLAMA, forwards=1, pooled=768
    ),
}

_SMALL_WAN = {**WAN, "dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 2}
_SMALL = {"hidden_size": 256, "num_heads": 2, "depth": 1}
_SMALL_COG = {
    **COGVIDEOX_15, "num_attention_heads": 2, "time_embed_dim": 64, "num_layers": 2, "text_embed_dim": 96,
}  # fmt: skip

TINY = {  # odd sizes: no axis is a multiple of a tile, CogVideoX pads its frames
    "tiny_wan": WholeModel("WAN21_T2V", _SMALL_WAN, (17, 208, 272), (16, 5, 26, 34), (19, 4096), compiled=True),
    "tiny_hunyuan": WholeModel(
        "HunyuanVideo", {**HUNYUAN, **_SMALL, "depth_single_blocks": 2, "context_in_dim": 96},
        (17, 208, 272), (16, 5, 26, 34), (11, 96), forwards=1, pooled=768,
    ),
    "tiny_hunyuan15": WholeModel(
        "HunyuanVideo15", {**HUNYUAN_15, **_SMALL, "depth": 2, "context_in_dim": 96},
        (17, 208, 272), (32, 5, 13, 17), (11, 96),
    ),
    "tiny_cogvideox15": WholeModel(
        "CogVideoX_T2V", _SMALL_COG, (33, 208, 272), (16, 9, 26, 34), (21, 96), warmup=0.0
    ),
}  # fmt: skip
"""Models and videos to try the script on: what they take says nothing of real ones."""
