"""Every model family in a real ComfyUI: small checkpoints with random weights, the real loaders and samplers."""

from __future__ import annotations

import subprocess

import pytest
import torch
from comfyui.family_cases import DENSE, SPARSE, STEPS, Case
from comfyui.installation import ROOT, comfyui_path, comfyui_python
from comfyui.prompts import node
from comfyui.results import PLANS, counts, latents, relative_difference, report
from comfyui.server import Server
from sparse_vdit.kernels.patterns import Dense
from sparse_vdit.nodes.host import reasons
from sparse_vdit.plans.files import save_plan
from tolerances import SAMPLED, SAMPLED_DENSE

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

FORWARDS = 2 * STEPS  # cond and uncond, of different text lengths: never in one batch


@pytest.fixture(scope="module")
def models(server: Server) -> Server:
    """The server, with a small checkpoint of every family."""
    path = comfyui_path()
    folder = server.base / "models/diffusion_models"
    command = [comfyui_python(path), "family_models.py", str(path), str(folder)]
    made = subprocess.run(command, cwd=ROOT / "tests" / "comfyui", capture_output=True, text=True, timeout=600)
    assert made.returncode == 0, made.stderr[-3000:]
    return server


@pytest.mark.parametrize("case", SPARSE, ids=lambda case: case.name)
def test_a_family_runs_its_plan_and_nothing_else(models: Server, case: Case) -> None:
    """All dense is the unpatched model; sparse is what direct calls on the hand-written sequence give."""
    save_plan(case.plan(((Dense(), Dense()),)), models.base / PLANS / "dense.json", overwrite=True)
    save_plan(case.plan(), models.base / PLANS / "sparse.json", overwrite=True)
    plain = latents(models, case.sampled({}, "model"))
    assert torch.isfinite(plain).all() and plain.std() > 0.1
    before = len(models.log_text())
    assert relative_difference(latents(models, case.patched("dense")), plain) <= SAMPLED_DENSE
    check_counts(report(models, before), case)
    before = len(models.log_text())
    sparse = latents(models, case.patched("sparse"))
    check_counts(report(models, before), case)
    assert relative_difference(sparse, plain) > 100 * SAMPLED_DENSE
    spec = {"direct": node("TestDirectAttention", model=("model", 0), spec=case.spec())}
    direct = latents(models, case.sampled(spec, "direct"))
    assert relative_difference(direct, plain) > 100 * SAMPLED_DENSE
    assert relative_difference(sparse, direct) <= SAMPLED


def check_counts(line: str, case: Case) -> None:
    """Each layer once in each forward, each of VACE's own blocks dense; equal texts may run in one batch."""
    forwards = {FORWARDS} if case.texts[0] != case.texts[1] else {FORWARDS, STEPS}
    sparse, dense = counts(line)
    assert (sparse, dense) in {(n * case.layers, n * case.calls.count(None)) for n in forwards}, line
    if dense:
        assert f"{reasons.VACE_BLOCK} {dense}" in line


@pytest.mark.parametrize(("case", "says"), DENSE, ids=lambda value: getattr(value, "name", ""))
def test_what_is_not_understood_stays_dense_and_says_so(models: Server, case: Case, says: str) -> None:
    save_plan(case.plan(), models.base / PLANS / "sparse.json", overwrite=True)
    plain = latents(models, case.sampled({}, "model"))
    before = len(models.log_text())
    assert torch.equal(latents(models, case.patched("sparse")), plain)
    assert f"everything runs dense: {says}" in report(models, before)


def test_multitalk_stays_dense_and_says_so(models: Server) -> None:
    case = SPARSE[0]
    save_plan(case.plan(), models.base / PLANS / "sparse.json", overwrite=True)
    plain = latents(models, case.sampled({}, "model"))
    before = len(models.log_text())
    prompt = case.patched("sparse")
    prompt["talking"] = node("TestTalkingPatch", model=("patch", 0))
    prompt["ksampler"]["inputs"]["model"] = ["talking", 0]
    assert torch.equal(latents(models, prompt), plain)
    line = report(models, before)
    assert counts(line) == (0, FORWARDS * case.layers)
    assert "MultiTalkGetAttnMapPatch" in line
