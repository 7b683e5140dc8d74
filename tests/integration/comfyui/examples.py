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
    """A workflow: nodes by name, the names by titled groups, columns from the left; titles other than the node's own; a
    note; the (clip, frame) of docs/small_wan_large.webp that its thumbnail shows."""

    nodes: dict[str, dict]
    groups: dict[str, tuple[str, ...]]
    note: str
    titles: dict[str, str] = field(default_factory=dict)
    still: tuple[int, int] = (0, 0)


def patched(model: LINK, **options: object) -> dict:
    """The patch node with its defaults."""
    inputs = {"preset": "balanced", "start_percent": 0.2, "end_percent": 1.0, "strict": False, "backend": "auto"}
    inputs["few_steps"] = "keep the dense start"
    return node("SparseVDiTPatchModel", model=model, **(inputs | options))


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
    return f"It uses the files of ComfyUI's template *{title}*. ComfyUI offers to download missing ones."


def wan_loaders() -> dict[str, dict]:
    """Wan 2.1 1.3B with its text encoder and VAE."""
    return {
        "unet": node("UNETLoader", unet_name="wan2.1_t2v_1.3B_fp16.safetensors", weight_dtype="default"),
        "clip": node("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan", device="default"),
        "vae": node("VAELoader", vae_name="wan_2.1_vae.safetensors"),
        "shifted": node("ModelSamplingSD3", model=("unet", 0), shift=8.0),
    }


PRIOR = """
Nothing to set up: the shipped plan for this model is used. The first run also measures the model, later runs start with
the plan that it made."""

CALIBRATE = """
Nothing to set up: no measured plan ships for this model, so the first run finds one, and later runs start with it."""

HOW = """
After the run, **Sparse-vDiT Patch** says whether it was faster. *Map of heads* shows what each head does.

For the dense video of the same seed, select the node and press Ctrl+B (bypass)."""

T2V_GROUPS = {
    "1. Models": ("unet", "clip", "vae"),
    "2. Prompt and size": ("positive", "negative", "latent"),
    "3. Sparse attention": ("shifted", "patch"),
    "4. Sample": ("sampler",),
    "5. Video": ("decoded", "video", "save"),
}

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
    T2V_GROUPS,
    f"## Wan 2.1 text to video with sparse attention\n\n{files_of('Wan 2.1 Text to Video')}\n{PRIOR}\n{HOW}",
)

WAN22 = "wan2.2_i2v_{}_noise_14B_fp8_scaled.safetensors"
WAN22_LORA = "wan2.2_i2v_lightx2v_4steps_lora_v1_{}_noise.safetensors"


def wan22_stage(noise: str, latent: LINK, first: int, last: int) -> dict[str, dict]:
    """One of Wan 2.2's two models with its LoRA, patched, and its part of the four steps."""
    start = first == 0  # with `few_steps` on auto, later generations are sparse from the first of the four steps on
    return {
        f"unet_{noise}": node("UNETLoader", unet_name=WAN22.format(noise), weight_dtype="default"),
        f"lora_{noise}": node(
            "LoraLoaderModelOnly", model=(f"unet_{noise}", 0), lora_name=WAN22_LORA.format(noise), strength_model=1.0
        ),
        f"shifted_{noise}": node("ModelSamplingSD3", model=(f"lora_{noise}", 0), shift=5.0),
        f"patch_{noise}": patched((f"shifted_{noise}", 0), few_steps="auto"),
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
    {
        "1. Models": ("unet_high", "lora_high", "unet_low", "lora_low", "clip", "vae"),
        "2. Image and prompt": ("image", "positive", "negative", "image_to_video"),
        "3. Sparse attention": ("shifted_high", "patch_high", "shifted_low", "patch_low"),
        "4. Sample": ("sampler_high", "sampler_low"),
        "5. Video": ("decoded", "video", "save"),
    },
    "## Wan 2.2 14B image to video in 4 steps with sparse attention\n\n"
    f"{files_of('Wan 2.2 14B Image to Video')}\n{PRIOR}\n\n"
    "Both models are patched, with the same *start_percent*: it counts noise, not steps, so both samplers share one "
    "schedule.\n\n*few_steps* is on *auto*: from the second generation on, all four steps are sparse. If the layout of "
    f"the video suffers, choose *keep the dense start*.\n{HOW}\n\nShort videos gain little in four steps; longer and "
    "larger ones gain more.",
    {name.format(noise): f"{title}, {noise} noise" for noise in ("high", "low")
     for name, title in (("patch_{}", "Sparse-vDiT Patch"), ("sampler_{}", "KSampler (Advanced)"))},
    (0, 12),
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
    T2V_GROUPS,
    "## HunyuanVideo 1.5 text to video with sparse attention\n\n"
    f"{files_of('Hunyuan Video 1.5 Text to Video')}\n{CALIBRATE}\n{HOW}",
    still=(0, 6),
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
    {**T2V_GROUPS, "3. Sparse attention": ("patch",)},
    "## CogVideoX 1.5 5B text to video with sparse attention\n\nThe diffusion model is CogVideoX1.5-5B in ComfyUI's "
    "form (weights named `blocks.0...`); files of diffusers do not load. ComfyUI offers no download of it: choose your "
    "file in the loader. Text encoder and VAE are those of ComfyUI's template *VOID: Video Inpainting*.\n"
    f"{CALIBRATE}\n{HOW}",
    still=(1, 6),
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
    {
        **{title: names for title, names in T2V_GROUPS.items() if title < "4"},
        "4. Sample twice": ("dense", "sparse"),
        "5. Compare": ("dense_frames", "sparse_frames", "compare"),
        "6. Video": ("video", "save"),
    },
    f"## Dense and sparse side by side\n\n{files_of('Wan 2.1 Text to Video')}\n{PRIOR}\n\n"
    "One seed is sampled dense and sparse. **Compare Videos** measures how far apart they are: PSNR, SSIM and flicker. "
    "The saved video shows dense, sparse, and a map of their difference.\n\nRun it twice before you compare times: the "
    "first run also measures the model.",
    {"dense": "KSampler, dense", "sparse": "KSampler, sparse"},
    (0, 3),
)

PLAN = Example(
    {
        **wan_loaders(),
        **texts(),
        "latent": latent(832, 480, 81),
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("CFGGuider", model=("shifted", 0), positive=("positive", 0), negative=("negative", 0), cfg=6.0),
        "sampler": node("KSamplerSelect", sampler_name="uni_pc"),
        "sigmas": node("BasicScheduler", model=("shifted", 0), scheduler="simple", steps=30, denoise=1.0),
        "profile": node(
            "SparseVDiTProfileHeads",
            noise=("noise", 0),
            guider=("guider", 0),
            sampler=("sampler", 0),
            sigmas=("sigmas", 0),
            latent_image=("latent", 0),
            rows=256,
            bands=4,
            flow="dense",
            prompt_label="fox in snow",
            start_percent=0.2,
        ),
        "search": node("SparseVDiTSearchPlan", profile=("profile", 1), rule="preset", **{"rule.preset": "balanced"}),
        "keep": node(
            "SparseVDiTSavePlan", plan=("search", 0), profile=("profile", 1), file_name="my_plan", overwrite=False
        ),
        "show": node("SparseVDiTPreviewPlan", plan=("keep", 0), profile=("profile", 1), layer=0, head=0, band=0),
        "text": node("PreviewAny", source=("keep", 1)),
        "decoded": node("VAEDecode", samples=("profile", 0), vae=("vae", 0)),
        **saved(("decoded", 0), "wan_profiled", 16.0),
    },
    {
        "1. Models": ("unet", "shifted", "clip", "vae"),
        "2. Prompt and size": ("positive", "negative", "latent"),
        "3. How to sample": ("noise", "guider", "sampler", "sigmas"),
        "4. Measure": ("profile", "decoded", "video", "save"),
        "5. Plan": ("search", "keep", "text"),
        "6. Look at it": ("show",),
    },
    f"## Make a plan for a model\n\n{files_of('Wan 2.1 Text to Video')}\n\n"
    "**Profile Heads** generates the video and measures every pattern in every head. Use the size and length that"
    " you use most. **Search Sparse Plan** makes a plan of it in seconds: try several presets. **Save Sparse "
    "Plan** saves it as *user/my_plan*.\n\nTo use the plan, connect **Load Sparse Plan** to *plan* of **Sparse-"
    "vDiT Patch Model**. To share it, copy the text into *plan_text* of **Load Sparse Plan**. For several "
    "prompts, chain Profile Heads by *previous_profile*.",
    {"text": "Plan as text"},
    (0, 9),
)

EXAMPLES = {
    "Wan 2.1 Text to Video": WAN_T2V,
    "Wan 2.2 Image to Video, 4 Steps": WAN22_I2V,
    "HunyuanVideo 1.5 Text to Video": HUNYUAN,
    "CogVideoX 1.5 Text to Video": COGVIDEOX,
    "Compare Dense and Sparse": COMPARED,
    "Make a Plan": PLAN,
}
"""By their names in ComfyUI's list of templates."""
