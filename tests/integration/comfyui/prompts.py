"""Workflows in ComfyUI's API form. Nodes are named, so that a test reads as what it builds."""

from __future__ import annotations

LINK = tuple[str, int]

WIDTH, HEIGHT, LENGTH = 176, 128, 17  # 5 x 8 x 11 tokens: ragged in every tile size


def node(kind: str, **inputs: object) -> dict:
    """One node; links are (name of the node, number of its output)."""
    return {"class_type": kind, "inputs": {k: list(v) if isinstance(v, tuple) else v for k, v in inputs.items()}}


def base(model_file: str = "small_wan.safetensors") -> dict:
    """Model, both conditionings and an empty latent."""
    return {
        "model": node("UNETLoader", unet_name=model_file, weight_dtype="default"),
        "positive": node("TestSceneConditioning", seed=3),
        "negative": node("TestSceneConditioning", seed=-1),
        "latent": node("EmptyHunyuanLatentVideo", width=WIDTH, height=HEIGHT, length=LENGTH, batch_size=1),
    }


def patch(plan: LINK | None = None, model: LINK = ("model", 0), **options: object) -> dict:
    """The patch node."""
    inputs = {"preset": "balanced", "start_percent": 0.2, "end_percent": 1.0, "strict": False, "backend": "auto"}
    inputs["only_if_faster"] = False  # what is faster on toys hangs on the machine
    extra = {} if plan is None else {"plan": plan}
    return node("SparseVDiTPatchModel", model=model, **{**inputs, **extra, **options})


def patched(name: str | None, steps: int = 4, **options: object) -> dict:
    """Workflow with the patch node, and the user's plan of this name unless it is None."""
    plan = {} if name is None else {"plan": node("SparseVDiTLoadPlan", plan_name=f"user/{name}")}
    link = None if name is None else ("plan", 0)
    return {**base(), **plan, "patch": patch(link, **options), "sampler": ksampler(("patch", 0), steps)}


def ksampler(model: LINK, steps: int = 4, cfg: float = 3.0, seed: int = 5) -> dict:
    """KSampler on the base's conditionings."""
    return node(
        "KSampler",
        model=model,
        positive=("positive", 0),
        negative=("negative", 0),
        latent_image=("latent", 0),
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )


def save_latent(samples: LINK, name: str) -> dict:
    """ComfyUI's own node, which writes a safetensors file."""
    return node("SaveLatent", samples=samples, filename_prefix=name)


def profiled(flow: dict | None = None, steps: int = 4, bands: int = 1, start_percent: float = 0.0) -> dict:
    """Noise, guider, sampler, sigmas and Profile Heads."""
    return {
        "noise": node("RandomNoise", noise_seed=7),
        "guider": node("BasicGuider", model=("model", 0), conditioning=("positive", 0)),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=("model", 0), scheduler="simple", steps=steps, denoise=1.0),
        "profile": node(
            "SparseVDiTProfileHeads",
            noise=("noise", 0),
            guider=("guider", 0),
            sampler=("sampler", 0),
            sigmas=("sigmas", 0),
            latent_image=("latent", 0),
            rows=64,
            bands=bands,
            prompt_label="scene 3\r\n",
            start_percent=start_percent,
            **(flow or {"flow": "dense"}),
        ),
    }


def stage(model: str, latent: str, start: int) -> dict:
    """Two of the four steps of one schedule, as Wan 2.2's two samplers share it.

    Args:
        model, latent: names of the nodes that give them.
        start: 0 or 2, the first of the two steps.
    """
    return node(
        "KSamplerAdvanced",
        model=(model, 0),
        positive=("positive", 0),
        negative=("negative", 0),
        latent_image=(latent, 0),
        add_noise="disable" if start else "enable",
        noise_seed=5,
        steps=4,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
        start_at_step=start,
        end_at_step=start + 2,
        return_with_leftover_noise="disable" if start else "enable",
    )
