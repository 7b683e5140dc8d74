"""The example workflows of one model each, in API form. `python -m comfyui.make_examples` writes them.

Files are named as ComfyUI's own templates name them, whose entries give their addresses; CogVideoX 1.5 has none, and
takes text encoder and VAE of another.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .prompts import LINK, node

FOX = "a fox runs through fresh snow between birches, morning sun, the camera follows from the side"
NEGATIVE = "blurry, low quality, static, watermark, subtitles"


@dataclass(frozen=True)
class Example:
    """A workflow: nodes by name, the names by column from the left, titles other than the node's own, and a note."""

    nodes: dict[str, dict]
    columns: tuple[tuple[str, ...], ...]
    note: str
    titles: dict[str, str] = field(default_factory=dict)


def patched(model: LINK, **options: object) -> dict:
    """The patch node with its defaults."""
    inputs = {"preset": "balanced", "start_percent": 0.2, "end_percent": 1.0, "strict": False, "backend": "auto"}
    return node("SparseVDiTPatchModel", model=model, **inputs, **options)


def texts(clip: LINK = ("clip", 0), positive: str = FOX) -> dict[str, dict]:
    """Prompt and negative prompt."""
    return {
        "positive": node("CLIPTextEncode", clip=clip, text=positive),
        "negative": node("CLIPTextEncode", clip=clip, text=NEGATIVE),
    }


def sampled(model: LINK, latent: LINK, steps: int, cfg: float, sampler: str = "euler") -> dict:
    """KSampler on the example's texts."""
    return node(
        "KSampler",
        model=model,
        positive=("positive", 0),
        negative=("negative", 0),
        latent_image=latent,
        seed=1,
        steps=steps,
        cfg=cfg,
        sampler_name=sampler,
        scheduler="simple",
        denoise=1.0,
    )


def saved(frames: LINK, name: str, fps: float) -> dict[str, dict]:
    """A video file of frames."""
    return {
        "video": node("CreateVideo", images=frames, fps=fps),
        "save": node("SaveVideo", video=("video", 0), filename_prefix=f"video/{name}", format="auto", codec="auto"),
    }


def latent(width: int, height: int, length: int, kind: str = "EmptyHunyuanLatentVideo") -> dict:
    """An empty latent."""
    return node(kind, width=width, height=height, length=length, batch_size=1)


def files_of(title: str) -> str:
    """Where a note's model files come from."""
    return f"Model files are those of ComfyUI's template *{title}*; ComfyUI offers to download what is missing."


def wan_loaders() -> dict[str, dict]:
    """Wan 2.1 1.3B with its text encoder and VAE."""
    return {
        "unet": node("UNETLoader", unet_name="wan2.1_t2v_1.3B_fp16.safetensors", weight_dtype="default"),
        "clip": node("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan", device="default"),
        "vae": node("VAELoader", vae_name="wan_2.1_vae.safetensors"),
        "shifted": node("ModelSamplingSD3", model=("unet", 0), shift=8.0),
    }


PRIOR = """
Without a connected plan the shipped one runs, of grade *prior*: how sparse each head may be was measured, where it
looks was not. The first run measures that, and later runs begin with the completed plan."""

CALIBRATE = """
No measured plan ships for this model (grade *calibrate*). Without a connected plan the first run finds one, and later
runs begin with it."""

HOW = """
The line on **Sparse-vDiT Patch Model** says what ran sparse, what ran dense, and why; *Map of heads* shows each head.

Select the node and press Ctrl+B to bypass it: the same seed then gives the dense video."""

WAN_T2V = Example(
    {
        **wan_loaders(),
        **texts(),
        "latent": latent(832, 480, 81),
        "patch": patched(("shifted", 0)),
        "sampler": sampled(("patch", 0), ("latent", 0), 30, 6.0, "uni_pc"),
        "decoded": node("VAEDecode", samples=("sampler", 0), vae=("vae", 0)),
        **saved(("decoded", 0), "wan_sparse", 16.0),
    },
    (
        ("unet", "clip", "vae"),
        ("shifted", "positive", "negative", "latent"),
        ("patch",),
        ("sampler",),
        ("decoded", "video", "save"),
    ),
    f"## Wan 2.1 text to video, sparse\n\n{files_of('Wan 2.1 Text to Video')}\n{PRIOR}\n{HOW}",
)

WAN22 = "wan2.2_i2v_{}_noise_14B_fp8_scaled.safetensors"
WAN22_LORA = "wan2.2_i2v_lightx2v_4steps_lora_v1_{}_noise.safetensors"


def wan22_stage(noise: str, latent: LINK, first: int, last: int) -> dict[str, dict]:
    """One of Wan 2.2's two models with its LoRA, patched, and its part of the four steps."""
    start = first == 0
    return {
        f"unet_{noise}": node("UNETLoader", unet_name=WAN22.format(noise), weight_dtype="default"),
        f"lora_{noise}": node(
            "LoraLoaderModelOnly", model=(f"unet_{noise}", 0), lora_name=WAN22_LORA.format(noise), strength_model=1.0
        ),
        f"shifted_{noise}": node("ModelSamplingSD3", model=(f"lora_{noise}", 0), shift=5.0),
        f"patch_{noise}": patched((f"shifted_{noise}", 0)),
        f"sampler_{noise}": node(
            "KSamplerAdvanced",
            model=(f"patch_{noise}", 0),
            positive=("image_to_video", 0),
            negative=("image_to_video", 1),
            latent_image=latent,
            add_noise="enable" if start else "disable",
            noise_seed=1,
            steps=4,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            start_at_step=first,
            end_at_step=last,
            return_with_leftover_noise="enable" if start else "disable",
        ),
    }


WAN22_I2V = Example(
    {
        "clip": wan_loaders()["clip"],
        "vae": wan_loaders()["vae"],
        "image": node("LoadImage", image="example.png"),
        **texts(positive="the scene comes alive, gentle motion, the camera moves slowly forward"),
        "image_to_video": node(
            "WanImageToVideo",
            positive=("positive", 0),
            negative=("negative", 0),
            vae=("vae", 0),
            start_image=("image", 0),
            width=640,
            height=640,
            length=81,
            batch_size=1,
        ),
        **wan22_stage("high", ("image_to_video", 2), 0, 2),
        **wan22_stage("low", ("sampler_high", 0), 2, 10000),
        "decoded": node("VAEDecode", samples=("sampler_low", 0), vae=("vae", 0)),
        **saved(("decoded", 0), "wan22_sparse", 16.0),
    },
    (
        ("unet_high", "lora_high", "unet_low", "lora_low", "clip", "vae"),
        ("shifted_high", "shifted_low", "positive", "negative", "image"),
        ("patch_high", "patch_low", "image_to_video"),
        ("sampler_high", "sampler_low"),
        ("decoded", "video", "save"),
    ),
    "## Wan 2.2 14B image to video, 4 steps, two models with LoRAs, sparse\n\n"
    f"{files_of('Wan 2.2 14B Image to Video')}\n{PRIOR}\n\n"
    "Both models are patched, with the same *start_percent*: it counts noise and not steps, so that two samplers may "
    f"share one schedule.\n{HOW}\n\nWith so few steps the first generation alone has a dense beginning, unless "
    "*start_percent* is above 0.2. Four steps leave little to gain where the video is short: "
    "longer and larger ones gain more.",
    {name.format(noise): f"{title}, {noise} noise" for noise in ("high", "low")
     for name, title in (("patch_{}", "Sparse-vDiT Patch Model"), ("sampler_{}", "KSampler (Advanced)"))},
)  # fmt: skip

HUNYUAN = Example(
    {
        "unet": node("UNETLoader", unet_name="hunyuanvideo1.5_720p_t2v_fp16.safetensors", weight_dtype="default"),
        "clip": node(
            "DualCLIPLoader",
            clip_name1="qwen_2.5_vl_7b_fp8_scaled.safetensors",
            clip_name2="byt5_small_glyphxl_fp16.safetensors",
            type="hunyuan_video_15",
            device="default",
        ),
        "vae": node("VAELoader", vae_name="hunyuanvideo15_vae_fp16.safetensors"),
        "shifted": node("ModelSamplingSD3", model=("unet", 0), shift=7.0),
        **texts(),
        "latent": latent(1280, 720, 121, "EmptyHunyuanVideo15Latent"),
        "patch": patched(("shifted", 0)),
        "sampler": sampled(("patch", 0), ("latent", 0), 20, 6.0),
        "decoded": node("VAEDecode", samples=("sampler", 0), vae=("vae", 0)),
        **saved(("decoded", 0), "hunyuan_sparse", 24.0),
    },
    WAN_T2V.columns,
    f"## HunyuanVideo 1.5 text to video, sparse\n\n{files_of('Hunyuan Video 1.5 Text to Video')}\n{CALIBRATE}\n{HOW}",
)

COGVIDEOX = Example(
    {
        "unet": node("UNETLoader", unet_name="cogvideox1.5_5b_t2v_bf16.safetensors", weight_dtype="default"),
        "clip": node("CLIPLoader", clip_name="t5xxl_fp16.safetensors", type="cogvideox", device="default"),
        "vae": node("VAELoader", vae_name="cogvideox_vae.safetensors"),
        **texts(),
        "latent": latent(1360, 768, 81),
        "patch": patched(("unet", 0)),
        "sampler": sampled(("patch", 0), ("latent", 0), 50, 6.0),
        "decoded": node("VAEDecode", samples=("sampler", 0), vae=("vae", 0)),
        **saved(("decoded", 0), "cogvideox_sparse", 16.0),
    },
    (
        ("unet", "clip", "vae"),
        ("positive", "negative", "latent"),
        ("patch",),
        ("sampler",),
        ("decoded", "video", "save"),
    ),
    "## CogVideoX 1.5 5B text to video, sparse\n\nThe diffusion model is the transformer of CogVideoX1.5-5B in "
    "ComfyUI's own form (weights named `blocks.0...`); ComfyUI does not convert files of diffusers. No template of "
    "ComfyUI lists such a file, so the name in the loader is a placeholder: choose yours. Text encoder "
    f"and VAE are those of its template *VOID: Video Inpainting*.\n{CALIBRATE}\n{HOW}",
)

COMPARED = Example(
    {
        **wan_loaders(),
        **texts(),
        "latent": latent(832, 480, 81),
        "patch": patched(("shifted", 0)),
        "dense": sampled(("shifted", 0), ("latent", 0), 30, 6.0, "uni_pc"),
        "sparse": sampled(("patch", 0), ("latent", 0), 30, 6.0, "uni_pc"),
        "dense_frames": node("VAEDecode", samples=("dense", 0), vae=("vae", 0)),
        "sparse_frames": node("VAEDecode", samples=("sparse", 0), vae=("vae", 0)),
        "compare": node(
            "SparseVDiTCompareVideos", reference=("dense_frames", 0), video=("sparse_frames", 0), difference_gain=4.0
        ),
        **saved(("compare", 1), "sparse_beside_dense", 16.0),
    },
    (
        ("unet", "clip", "vae"),
        ("shifted", "positive", "negative", "latent"),
        ("patch",),
        ("dense", "sparse"),
        ("dense_frames", "sparse_frames", "compare"),
        ("video", "save"),
    ),
    f"## What does sparse attention change?\n\n{files_of('Wan 2.1 Text to Video')}\n{PRIOR}\n\n"
    "One seed, dense and sparse. **Compare Videos** says how far apart they "
    "are: PSNR, SSIM and flicker, as numbers and over the frames. The saved video shows dense, sparse, and a heat map "
    "of their difference.\n\nRun it twice: the first run also measures the model, which takes time. "
    "Times of the two samplers stand in ComfyUI's log.",
    {"dense": "KSampler, dense", "sparse": "KSampler, sparse"},
)

EXAMPLES = {
    "wan2.2_i2v_4_steps_sparse": WAN22_I2V,
    "wan_t2v_sparse": WAN_T2V,
    "hunyuan_video_1.5_sparse": HUNYUAN,
    "cogvideox_1.5_sparse": COGVIDEOX,
    "compare_dense_and_sparse": COMPARED,
}
