"""Two models in one guider, in a real ComfyUI: each is sampled as its own patch node says, and as alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from comfyui.plans import LAYERS, add_plan
from comfyui.prompts import base, node, patch
from comfyui.results import counts, latents, new_log, relative_difference
from comfyui.server import PromptError, Server
from sparse_vdit.kernels.patterns import Diagonal

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

STEPS = 4
FP8 = node("UNETLoader", unet_name="small_wan.safetensors", weight_dtype="fp8_e4m3fn")
PLANS = {"positive": Diagonal(0), "negative": Diagonal(1)}
MODELS = {"positive": "model", "negative": "other"}


def workflow(guider: dict, steps: int = STEPS, patched: tuple[str, ...] = (), **options: object) -> dict:
    """Both models, a patch node with a plan of its own on each of the `patched` ones, and a sampler."""
    made = {**base(), "other": FP8, "guider": guider}
    for side in patched:
        made[f"{side}_plan"] = node("SparseVDiTLoadPlan", plan_name=f"user/{side}")
        link = (f"{side}_plan", 0)
        made[f"{side}_patch"] = patch(link, (MODELS[side], 0), start_percent=0.0, backend="torch", **options)
    return {
        **made,
        "noise": node("RandomNoise", noise_seed=7),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=("model", 0), scheduler="simple", steps=steps, denoise=1.0),
        "sampler": node(
            "SamplerCustomAdvanced",
            noise=("noise", 0),
            guider=("guider", 0),
            sampler=("euler", 0),
            sigmas=("sigmas", 0),
            latent_image=("latent", 0),
        ),
    }


def model_of(side: str, patched: tuple[str, ...]) -> tuple[str, int]:
    return (f"{side}_patch" if side in patched else MODELS[side], 0)


def alone(side: str, steps: int = STEPS, patched: tuple[str, ...] = ()) -> dict:
    """One of the two models with its text and no guidance."""
    guider = node("BasicGuider", model=model_of(side, patched), conditioning=(side, 0))
    return workflow(guider, steps, tuple({side} & set(patched)))


def together(cfg: float, steps: int = STEPS, patched: tuple[str, ...] = (), **options: object) -> dict:
    """Both models in one guider."""
    models = {"model": model_of("positive", patched), "model_negative": model_of("negative", patched)}
    texts = {"positive": ("positive", 0), "negative": ("negative", 0)}
    return workflow(node("DualModelGuider", **models, **texts, cfg=cfg), steps, patched, **options)


@pytest.mark.parametrize("patched", [("positive",), ("negative",), ("positive", "negative")], ids="+".join)
def test_each_model_runs_by_its_own_patch_node(server: Server, patched: tuple[str, ...]) -> None:
    for side, pattern in PLANS.items():
        add_plan(server, side, pattern)
    before = len(server.log_text())
    # at cfg 0 the video is the negative model's alone
    found = latents(server, together(0.0, patched=patched, strict=True))
    lines = [line for line in new_log(server, before).splitlines() if "Sparse-vDiT:" in line and "sparse /" in line]
    assert torch.equal(found, latents(server, alone("negative", patched=patched)))
    assert [counts(line) for line in lines] == [(STEPS * LAYERS, 0)] * len(patched)
    assert all(any(side in line for line in lines) for side in patched), lines
    negative, positive = (latents(server, alone(side, 1, patched)) for side in ("negative", "positive"))
    both = latents(server, together(3.0, 1, patched))
    assert relative_difference(both, negative + 3 * (positive - negative)) < 1e-5


def test_what_a_plan_changes_is_larger_than_that(server: Server) -> None:
    for side, pattern in PLANS.items():
        add_plan(server, side, pattern)
    for side in PLANS:
        dense, sparse = (latents(server, alone(side, 1, patched)) for patched in ((), (side,)))
        assert relative_difference(sparse, dense) > 1e-3


def test_another_model_is_not_measured_into_a_profile(server: Server) -> None:
    prompt = together(3.0, 1)
    given = {name: tuple(link) for name, link in prompt.pop("sampler")["inputs"].items()}
    flow = {"flow": "dense"}
    prompt["profile"] = node("SparseVDiTProfileHeads", **given, rows=64, bands=1, start_percent=0.0, **flow)
    before = len(server.log_text())
    latents(server, prompt, "profile")
    assert f"measured {LAYERS} calls" in new_log(server, before)


def test_two_models_of_the_same_weights_are_one_to_comfyui(server: Server) -> None:
    """Then it computes both passes by the guider's first one; a patch node on the second says that it cannot act."""
    add_plan(server, "negative", PLANS["negative"])
    prompt = together(3.0, patched=("negative",), strict=True)
    prompt["negative_patch"]["inputs"]["model"] = ["model", 0]
    with pytest.raises(PromptError, match="share the same weights"):
        latents(server, prompt)
    prompt["negative_patch"]["inputs"]["strict"] = False
    unpatched = together(3.0)
    unpatched["guider"]["inputs"]["model_negative"] = ["model", 0]
    assert torch.equal(latents(server, prompt), latents(server, unpatched))


def test_an_interrupted_pair_leaves_nothing_behind(server: Server) -> None:
    for side, pattern in PLANS.items():
        add_plan(server, side, pattern)
    pair = ("positive", "negative")
    good = latents(server, together(3.0, patched=pair))
    before = len(server.log_text())

    def interrupt() -> None:
        if "2/300" in server.log_text()[before:]:
            server.post("/interrupt")

    prompt = together(3.0, 300, pair)
    prompt["save"] = node("SaveLatent", samples=("sampler", 0), filename_prefix="latents/test")
    with pytest.raises(PromptError, match="execution_interrupted"):
        server.run(prompt, while_running=interrupt)
    assert "sparse /" not in new_log(server, before)
    assert torch.equal(latents(server, together(3.0, patched=pair)), good)
    for patched in itertools.combinations(pair, 1):
        assert torch.equal(
            latents(server, together(0.0, patched=patched)), latents(server, alone("negative", patched=patched))
        )
