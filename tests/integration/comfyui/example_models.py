"""Run with ComfyUI's Python: writes small random-weight files under the very names that the example workflows give.

python example_models.py COMFYUI MODELS

Diffusion models are small ones of the family, with texts as wide as the real one's, whose heads look at their own
place so that plans of them are sparse. VAEs are of ComfyUI's own classes: Wan's is a narrow one; those of HunyuanVideo
1.5 and CogVideoX have one width, too much for a CPU, so theirs are ComfyUI's small ones (TAEHV) for the same latents.
Text encoders have fixed sizes of billions of weights, so their files hold nothing but a mark, by which the test pack
takes a stand-in.
"""

import sys
from pathlib import Path

import torch
from family_models import COG, HUNYUAN_15, WAN, begin, random_weights, write
from safetensors.torch import load_file, save_file

TEXT_ENCODERS = ("umt5_xxl_fp8_e4m3fn_scaled", "t5xxl_fp16", "qwen_2.5_vl_7b_fp8_scaled", "byt5_small_glyphxl_fp16")
MARK = "stand_in"
LENGTHS = ("norm_q.weight", "norm_k.weight", "query_norm.weight", "key_norm.weight")


def main() -> None:
    comfyui, models = sys.argv[1], Path(sys.argv[2])
    begin(comfyui)
    for folder in ("diffusion_models", "text_encoders", "vae"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    write_diffusion_models(models / "diffusion_models")
    write_vaes(models / "vae")
    for name in TEXT_ENCODERS:
        save_file({MARK: torch.zeros(1)}, models / "text_encoders" / f"{name}.safetensors")


def write_diffusion_models(folder: Path) -> None:
    from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel
    from comfy.ldm.hunyuan_video.model import HunyuanVideo
    from comfy.ldm.wan.model import WanModel

    i2v = {**WAN, "model_type": "t2v", "in_dim": 36}
    made = {
        "wan2.1_t2v_1.3B_fp16": (WanModel, {**WAN, "model_type": "t2v"}),
        "wan2.2_i2v_high_noise_14B_fp8_scaled": (WanModel, i2v),
        "wan2.2_i2v_low_noise_14B_fp8_scaled": (WanModel, i2v),
        "hunyuanvideo1.5_720p_t2v_fp16": (HunyuanVideo, {**HUNYUAN_15, "context_in_dim": 3584}),
        "cogvideox1.5_5b_t2v_bf16": (
            CogVideoXTransformer3DModel,
            {**COG, "patch_size_t": 2, "text_embed_dim": 4096},
        ),
    }
    for seed, (name, (kind, settings)) in enumerate(made.items()):
        file = folder / f"{name}.safetensors"
        write(file, kind, settings, seed)
        save_file(local(load_file(file)), file)


def local(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same, in place, with the keys of self-attention made as the queries are, and both long: a token looks at
    itself."""
    for name, value in weights.items():
        if "cross_attn" in name:
            continue
        if ".qkv." in name:
            value.chunk(3)[1].copy_(value.chunk(3)[0])
        elif ".k." in name:
            value.copy_(weights[name.replace(".k.", ".q.")])
        elif name.endswith(LENGTHS):
            value.mul_(2)
    return weights


def write_vaes(folder: Path) -> None:
    from comfy.ldm.wan.vae import WanVAE
    from comfy.taesd.taehv import TAEHV

    wan = {"dim": 8, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}
    made = {
        "wan_2.1_vae": WanVAE(**wan, temperal_downsample=[False, True, True]),
        "hunyuanvideo15_vae_fp16": TAEHV(latent_channels=32),
        "cogvideox_vae": TAEHV(latent_channels=16),
    }
    for seed, (name, model) in enumerate(made.items()):
        save_file(random_weights(model, seed), folder / f"{name}.safetensors")


if __name__ == "__main__":
    main()
