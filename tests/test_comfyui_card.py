"""Whole runs in a real ComfyUI by the kernels that ship, executed instruction by instruction on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from comfyui.fixtures import with_models
from comfyui.installation import comfyui_path
from comfyui.plans import add_plan
from comfyui.prompts import base, ksampler, node, patched
from comfyui.results import counts, latents, new_log, relative_difference, report
from comfyui.server import Server
from sparse_vdit.kernels.patterns import Diagonal, Routed

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

STEPS, LAYERS = 3, 4
CLOSE = {"--fp16-unet": 5e-3, "--bf16-unet": 4e-2}  # of two ways to compute the same attention, over all steps


@pytest.fixture(scope="module", params=CLOSE)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, float]]:
    """A server whose model is in 16 bits, and how near equal latents are in its dtype."""
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; no run on the machine was tried in a real ComfyUI")
    folder: Path = with_models(tmp_path_factory.mktemp("card"))
    running = Server(comfyui, folder, arguments=(request.param,))
    yield running, CLOSE[request.param]
    running.stop()


def on_card(card: str, plan: str, **options: object) -> dict:
    """A few steps by a plan of the user's, on a machine."""
    prompt = patched(plan, STEPS, start_percent=0.0, **options)
    prompt["card"] = node("TestPluggedCard", model=("model", 0), card=card)
    prompt["patch"]["inputs"]["model"] = ["card", 0]
    return prompt


def dense(server: Server) -> torch.Tensor:
    return latents(server, {**base(), "sampler": ksampler(("model", 0), STEPS)})


@pytest.mark.parametrize(("card", "arch"), [("RTX 4090", "sm_89"), ("H100", "sm_90")])
def test_a_run_by_the_shipped_kernels(served: tuple[Server, float], card: str, arch: str) -> None:
    """A plan that leaves nothing out gives dense latents; a sparse one gives what torch gives for it."""
    server, close = served
    add_plan(server, "whole", Routed(1.0))  # by kernels, where a dense plan would be left to the model
    add_plan(server, "sparse", Diagonal(1, 0.4, 0.5))
    for name in ("whole", "sparse"):
        before = len(server.log_text())
        found = latents(server, on_card(card, name))
        line, log = report(server, before), new_log(server, before)
        assert counts(line)[0] >= STEPS * LAYERS and "by compiled" in line, line
        assert f"{arch}/attention-" in log and torch.isfinite(found).all()
        exact = dense(server)
        if name == "sparse":
            assert relative_difference(found, exact) > 2 * close, "the plan left nothing out"
            exact = latents(server, patched(name, STEPS, start_percent=0.0, backend="torch"))
        assert relative_difference(found, exact) <= close, name


def test_the_race_on_a_card(served: tuple[Server, float]) -> None:
    """Timed, tested and checked, as on a user's card: the machine is slower than dense, so that the run stays dense."""
    server, close = served
    add_plan(server, "raced", Diagonal(0))
    before = len(server.log_text())
    found = latents(server, on_card("RTX 4090", "raced", only_if_faster=True))
    line, log = report(server, before), new_log(server, before)
    assert "sparse is not faster here" in line, line
    assert "int8" in log and "failed" not in line, line
    assert relative_difference(found, dense(server)) <= close


