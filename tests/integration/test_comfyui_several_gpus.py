"""MultiGPU CFG Split in a real ComfyUI, on two devices that are both the CPU: each runs its own part of the plan."""

from __future__ import annotations

import pytest
import torch
from comfyui.family_cases import SPARSE, Case
from comfyui.plans import LAYERS, add_plan, forget_plans
from comfyui.prompts import base, ksampler, node, patched
from comfyui.results import PLANS, counts, latents, new_log, relative_difference, report
from comfyui.server import PromptError, Server
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.plans.plan.files import save_plan
from tolerances import SAMPLED

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

STEPS = 4
OPTIONS = {"start_percent": 0.0, "backend": "torch"}


def split(prompt: dict, *before: str, sampler: str = "sampler") -> dict:
    """The workflow on two devices, with nodes of the test pack before the split."""
    link = prompt[sampler]["inputs"]["model"]
    for kind in (*before, "TestTwoDevices"):
        inputs = {"backend": "eager"} if kind == "TestCompileModel" else {}
        prompt[kind] = node(kind, model=tuple(link), **inputs)
        link = [kind, 0]
    prompt[sampler]["inputs"]["model"] = link
    return prompt


def sampled(server: Server, prompt: dict) -> tuple[torch.Tensor, str]:
    """Latents of a workflow, and its report."""
    before = len(server.log_text())
    found = latents(server, prompt)
    return found, report(server, before)


@pytest.fixture(scope="module")
def one_device(server: Server) -> torch.Tensor:
    """The sparse latents of one device."""
    add_plan(server, "sparse", Diagonal(0))
    return latents(server, patched("sparse", STEPS, **OPTIONS))


def assert_split(line: str, sparse: int, dense: int = 0) -> None:
    """Both devices had the same number of sparse calls, and no other calls were dense."""
    assert counts(line) == (2 * sparse, dense), line
    assert f"sparse calls by device: {sparse} on cpu, {sparse} on cpu:0" in line


def test_two_devices_give_the_video_of_one(server: Server, one_device: torch.Tensor, plain: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    found, line = sampled(server, split(patched("sparse", STEPS, **OPTIONS, strict=True)))
    assert_split(line, STEPS * LAYERS)
    difference = relative_difference(found, one_device)
    print(f"\ntwo devices to one: {difference:.1e}")
    assert difference <= SAMPLED
    assert relative_difference(found, plain) > 100 * SAMPLED


@pytest.mark.slow
def test_twenty_runs_are_alike(server: Server, one_device: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    for _ in range(20):
        found, line = sampled(server, split(patched("sparse", STEPS, **OPTIONS)))
        assert_split(line, STEPS * LAYERS)
        assert relative_difference(found, one_device) <= SAMPLED


def test_compiled_models_follow_their_device(server: Server, one_device: torch.Tensor) -> None:
    """Both devices compute by the same code, at other blocks at the same time."""
    add_plan(server, "sparse", Diagonal(0))
    for _ in range(2):  # the second one finds the first one's code
        found, line = sampled(server, split(patched("sparse", STEPS, **OPTIONS), "TestCompileModel"))
        assert_split(line, STEPS * LAYERS)
        assert relative_difference(found, one_device) <= SAMPLED


FEW = {"wan2.1 t2v", "wan vace", "hunyuan video", "hunyuan video, masked text", "cogvideox", "minimax h3", "ltx-2"}
CASES = [case for case in SPARSE if case.name in FEW or case.family == "ltx"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_families(models: Server, case: Case) -> None:
    """With texts of two lengths, so that the devices have other token grids at the same time."""
    save_plan(case.plan(), models.base / PLANS / "sparse.json", overwrite=True)
    one, line = sampled(models, case.patched("sparse"))
    both, split_line = sampled(models, split(case.patched("sparse"), sampler="ksampler"))
    difference = relative_difference(both, one)
    print(f"\n{case.name}: {difference:.1e}")
    assert counts(split_line) == counts(line)
    assert "sparse calls by device" in split_line and "failed" not in split_line
    assert difference <= SAMPLED


def test_kernels_are_timed_on_both(server: Server) -> None:
    """On a CPU either way may be the faster one; no call is lost, and nothing fails."""
    add_plan(server, "sparse", Diagonal(0))
    options = {"start_percent": 0.0, "backend": "auto", "only_if_faster": True}
    found, line = sampled(server, split(patched("sparse", STEPS, **options)))
    assert sum(counts(line)) == 2 * STEPS * LAYERS and "failed" not in line
    assert "a call takes" in line
    assert torch.isfinite(found).all()


def test_a_plan_is_found_while_both_compute(server: Server) -> None:
    """The first device measures; both run the plan from there on."""
    forget_plans(server)
    _, line = sampled(server, split(patched(None, 9, start_percent=0.2)))
    assert "found in this run" in line and "kept as" in line, line
    assert_split(line, 7 * LAYERS, 2 * 2 * LAYERS)
    for _ in range(3):  # what a busy machine has left out is measured later, and is part of the plan after that
        one, line = sampled(server, patched(None, 9, start_percent=0.2))
        assert "calibrated plan of" in line
        if " calls in " not in line:
            break
    both, line = sampled(server, split(patched(None, 9, start_percent=0.2)))
    assert_split(line, 7 * LAYERS, 2 * 2 * LAYERS)
    assert relative_difference(both, one) <= SAMPLED
    forget_plans(server)


def test_a_kernel_that_fails_makes_both_dense(server: Server, plain: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    prompt = patched("sparse", STEPS, **OPTIONS)
    prompt["trouble"] = node("TestTroubleInKernel", model=("patch", 0), trouble="error", first=0, last=9999)
    prompt["sampler"]["inputs"]["model"] = ["trouble", 0]
    found, line = sampled(server, split(prompt))
    sparse, dense = counts(line)
    assert (sparse, dense) == (0, 2 * STEPS * LAYERS)
    assert "the sparse kernel failed (RuntimeError: kernel trouble was asked for)" in line
    assert relative_difference(found, plain) <= SAMPLED


def test_a_forward_that_is_not_finite_is_repeated_on_its_device(server: Server, plain: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    prompt = patched("sparse", 1, **OPTIONS)
    prompt["trouble"] = node("TestTroubleInKernel", model=("patch", 0), trouble="not finite", first=0, last=9999)
    prompt["sampler"]["inputs"]["model"] = ["trouble", 0]
    found, line = sampled(server, split(prompt))
    assert counts(line) == (0, 2 * LAYERS) and fallback.NOT_FINITE.sentence in line
    dense = latents(server, {**base(), "sampler": ksampler(("model", 0), 1)})
    assert relative_difference(found, dense) <= SAMPLED


def test_an_error_on_one_device_ends_the_sampling_and_leaves_nothing_behind(
    server: Server, one_device: torch.Tensor
) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    with pytest.raises(PromptError, match="trouble on the second device"):
        latents(server, split(patched("sparse", STEPS, **OPTIONS), "TestFailingDevice"))
    assert "sparse /" not in new_log(server, before)
    assert torch.equal(latents(server, patched("sparse", STEPS, **OPTIONS)), one_device)
    assert relative_difference(latents(server, split(patched("sparse", STEPS, **OPTIONS))), one_device) <= SAMPLED


def test_an_interrupt_leaves_nothing_behind(server: Server, one_device: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())

    def interrupt() -> None:
        if "2/300" in server.log_text()[before:]:
            server.post("/interrupt")

    prompt = split(patched("sparse", 300, **OPTIONS))
    prompt["save"] = node("SaveLatent", samples=("sampler", 0), filename_prefix="latents/test")
    with pytest.raises(PromptError, match="execution_interrupted"):
        server.run(prompt, while_running=interrupt)
    assert "sparse /" not in new_log(server, before)
    assert torch.equal(latents(server, patched("sparse", STEPS, **OPTIONS)), one_device)
