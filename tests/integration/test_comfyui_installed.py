"""Installed twice, and sampled by samplers that have nothing to do, in a real ComfyUI."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from comfyui.fixtures import with_models
from comfyui.installation import ROOT, comfyui_path
from comfyui.plans import add_plan
from comfyui.prompts import base, node, patch
from comfyui.results import latents, new_log, report
from comfyui.server import _NOT_COPIED, PACK_FOLDER, Server
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]


def test_of_two_copies_one_serves_and_both_are_named(tmp_path: Path) -> None:
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; two copies of the pack were not tested")
    second = with_models(tmp_path) / "custom_nodes" / "a second copy"
    shutil.copytree(ROOT, second, ignore=_NOT_COPIED)
    server = Server(comfyui, tmp_path)
    try:
        warnings = [line for line in server.log_text().splitlines() if "is installed twice" in line]
        assert len(warnings) == 1 and all(f"{second.parent / name}" in warnings[0] for name in (second, PACK_FOLDER))
        assert not re.search(r"Cannot import .*(copy|sparse)", server.log_text())
        assert "SparseVDiTPatchModel" in server.get("/object_info/SparseVDiTPatchModel")
        assert server.get("/sparse_vdit/runs?workflow=none") == {"runs": {}}
        add_plan(server, "sparse", Diagonal(0))
        before = len(server.log_text())
        prompt = staged()
        assert torch.isfinite(latents(server, prompt, "second")).all()
        assert new_log(server, before).count("Sparse-vDiT:") == 2  # a sampler each, so no copy hooked in twice
    finally:
        server.stop()


def staged(**options: object) -> dict:
    """A schedule of four steps whose second part has none."""
    prompt = base()
    prompt["plan"] = node("SparseVDiTLoadPlan", plan_name="user/sparse")
    prompt["patch"] = patch(("plan", 0), start_percent=0.0, **options)
    prompt["noise"] = node("RandomNoise", noise_seed=7)
    prompt["guider"] = node("BasicGuider", model=("patch", 0), conditioning=("positive", 0))
    prompt["euler"] = node("KSamplerSelect", sampler_name="euler")
    prompt["all"] = node("BasicScheduler", model=("model", 0), scheduler="simple", steps=4, denoise=1.0)
    prompt["split"] = node("SplitSigmas", sigmas=("all", 0), step=4)
    for name, part, latent in (("first", 0, ("latent", 0)), ("second", 1, ("first", 0))):
        prompt[name] = node(
            "SamplerCustomAdvanced",
            noise=("noise", 0),
            guider=("guider", 0),
            sampler=("euler", 0),
            sigmas=("split", part),
            latent_image=latent,
        )
    return prompt


@pytest.mark.parametrize("strict", [False, True])
def test_a_sampler_without_steps_blames_nobody(server: Server, strict: bool) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    latents(server, staged(strict=strict), "second")
    line = report(server, before)
    assert line.endswith(f"Not faster here: {fallback.NO_STEPS}.")
    assert "sparse / 0 dense" in new_log(server, before)  # the first sampler's
