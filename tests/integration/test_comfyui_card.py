"""Whole runs in a real ComfyUI by the kernels that ship, executed instruction by instruction on the CPU."""

from __future__ import annotations

import pytest
import torch
from comfyui.plans import add_plan
from comfyui.prompts import base, ksampler, node, patched
from comfyui.results import counts, latents, new_log, relative_difference, report
from comfyui.server import Server
from sparse_vdit.kernels.patterns import Dense, Diagonal

pytest_plugins = ("comfyui.fixtures",)
pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

STEPS, LAYERS = 3, 4
CLOSE = {"fp16": 5e-3, "bf16": 2.5e-2}
"""Distance of two ways to compute the same attention, over all steps."""

every_dtype = pytest.mark.parametrize("dtype", CLOSE)


def in_16_bits(prompt: dict, dtype: str) -> dict:
    """A workflow whose model computes in a dtype."""
    cast = node("ModelComputeDtype", model=("model", 0), dtype=dtype)
    for one in prompt.values():
        if one["inputs"].get("model") == ["model", 0]:
            one["inputs"]["model"] = ["cast", 0]
    return {**prompt, "cast": cast}


def by_plan(dtype: str, plan: str, card: str | None = None, **options: object) -> dict:
    """A few steps by a plan of the user's, on a machine or by torch."""
    prompt = patched(plan, STEPS, start_percent=0.0, **options)
    if card is not None:
        prompt["card"] = node("TestPluggedCard", model=("model", 0), card=card)
        prompt["patch"]["inputs"]["model"] = ["card", 0]
    return in_16_bits(prompt, dtype)


def dense(server: Server, dtype: str) -> torch.Tensor:
    """Latents of ComfyUI's own attention."""
    return latents(server, in_16_bits({**base(), "sampler": ksampler(("model", 0), STEPS)}, dtype))


@every_dtype
@pytest.mark.parametrize(("card", "arch"), [("RTX 4090", "sm_89"), ("H100", "sm_90")])
def test_a_run_by_the_shipped_kernels(server: Server, dtype: str, card: str, arch: str) -> None:
    """A plan that leaves nothing out gives dense latents; a sparse one gives what torch gives for it."""
    close = CLOSE[dtype]
    add_plan(server, "whole", Dense())
    add_plan(server, "sparse", Diagonal(0, 0.2, 0.2))
    for name, backend in (("whole", "compiled"), ("sparse", "auto")):  # auto leaves dense heads to the model
        before = len(server.log_text())
        found = latents(server, by_plan(dtype, name, card, backend=backend))
        line, log = report(server, before), new_log(server, before)
        assert counts(line)[0] >= STEPS * LAYERS and "backend compiled" in line, line
        assert f"{arch}/attention-" in log and torch.isfinite(found).all()
        exact = dense(server, dtype)
        if name == "sparse":
            assert relative_difference(found, exact) > 2 * close, "the plan left nothing out"
            exact = latents(server, by_plan(dtype, name, backend="torch"))
        distance = relative_difference(found, exact)
        print(f"{dtype} {card} {name}: {distance:.1e} from {'dense' if name == 'whole' else 'torch'}")
        assert distance <= close, name


def test_the_race_on_a_card(server: Server) -> None:
    """Timed, tested and checked, as on a user's card: the machine is slower than dense, so that the run stays dense."""
    add_plan(server, "raced", Diagonal(0))
    before = len(server.log_text())
    found = latents(server, by_plan("bf16", "raced", "RTX 4090", only_if_faster=True))
    line, log = report(server, before), new_log(server, before)
    assert "sparse is not faster here" in line, line
    assert "int8" in log and "failed" not in line, line
    assert relative_difference(found, dense(server, "bf16")) <= CLOSE["bf16"]


