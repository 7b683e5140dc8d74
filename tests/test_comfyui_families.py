"""Every model family in a real ComfyUI: small checkpoints with random weights, the real loaders and samplers."""

from __future__ import annotations

import subprocess

import pytest
import torch
from comfyui import prompts
from comfyui.family_cases import DENSE, HEADS, SPARSE, STEPS, Case
from comfyui.installation import ROOT, comfyui_path, comfyui_python
from comfyui.prompts import node
from comfyui.results import PLANS, counts, latents, relative_difference, report
from comfyui.server import Server
from sparse_vdit.kernels.patterns import Dense
from sparse_vdit.nodes.host import reasons
from sparse_vdit.plans.files import load_plan, save_plan
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
    assert (sparse, dense) in {(n * case.layers, n * case.dense) for n in forwards}, line
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


PROFILED = ("wan2.1 t2v", "wan vace", "hunyuan video", "hunyuan video 1.5", "cogvideox", "minimax h3", "ltx-2")


@pytest.mark.parametrize("case", [case for case in SPARSE if case.name in PROFILED], ids=lambda case: case.name)
def test_profile_search_and_patch(models: Server, case: Case) -> None:
    """The whole way of a user, for every family: the plan that was searched runs on all layers that were measured."""
    before = len(models.log_text())
    measured = profiled()
    keep = node("SparseVDiTSavePlan", plan=("search", 0), profile=("profile", 1), file_name="made", overwrite=True)
    models.run({**case.base(), **measured, "search": budget(), "keep": keep})
    assert f"measured {STEPS * case.layers} calls" in report(models, before)
    plan = load_plan(models.base / PLANS / "made.json")
    assert (plan.family, plan.layers, plan.heads, plan.head_dim) == (case.family, case.layers, HEADS, case.head_dim)
    assert plan.grid == case.grid
    plain = latents(models, case.sampled({}, "model"))
    before = len(models.log_text())
    assert relative_difference(latents(models, case.patched("made")), plain) > 100 * SAMPLED_DENSE
    check_counts(report(models, before), case)


def test_a_profile_is_of_one_text_length(models: Server) -> None:
    """With guidance the other text is shorter: only the length that came first is measured, the other is counted."""
    case = next(case for case in SPARSE if case.name == "cogvideox")
    prompt = {**case.base(), **profiled()}
    cfg = {"cfg": 3.0, "model": ("model", 0), "positive": ("positive", 0), "negative": ("negative", 0)}
    prompt["guider"] = node("CFGGuider", **cfg)
    before = len(models.log_text())
    latents(models, prompt, "profile")
    line = report(models, before)
    assert f"measured {STEPS * case.layers} calls" in line
    assert f"{reasons.OTHER_TEXT} {STEPS * case.layers}" in line


def profiled() -> dict:
    """Profile Heads on the base's positive text."""
    prompt = prompts.profiled(steps=STEPS)
    prompt["profile"]["inputs"]["rows"] = 128
    return prompt


def budget() -> dict:
    """A plan of half the density."""
    return node("SparseVDiTSearchPlan", profile=("profile", 1), rule="budget: density", **{"rule.density": 0.6})


WHOLE = ("wan2.1 t2v", "wan vace", "hunyuan video", "cogvideox", "minimax h3")
ALONE = ("wan vace", "hunyuan video", "cogvideox")


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in SPARSE if case.name in WHOLE], ids=lambda case: case.name)
def test_compiled_models_number_their_blocks_alike(models: Server, case: Case) -> None:
    """Blocks are counted or named inside of compiled code: each layer must still run its own patterns."""
    refused = 0  # while compiling, without asking the run
    check_compiled(models, case, node("TestCompile", model=("patch", 0), part="whole"), refused)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in SPARSE if case.name in ALONE], ids=lambda case: case.name)
def test_blocks_compiled_alone_run_their_own_patterns(models: Server, case: Case) -> None:
    """They share code that was made for the first of them."""
    check_compiled(models, case, node("TestCompile", model=("patch", 0), part="blocks"), case.dense)


def check_compiled(models: Server, case: Case, compiled: dict, dense: int) -> None:
    """Compiled, and then from what was compiled, the plan gives what it gives without."""
    save_plan(case.plan(), models.base / PLANS / "sparse.json", overwrite=True)
    prompt = case.patched("sparse")
    prompt["ksampler"]["inputs"]["cfg"] = 1.0  # one text length: compiling takes long
    eager = latents(models, prompt)
    prompt["compiled"] = compiled
    prompt["ksampler"]["inputs"]["model"] = ["compiled", 0]
    for _ in range(2):
        before = len(models.log_text())
        assert relative_difference(latents(models, prompt), eager) <= SAMPLED
        assert counts(report(models, before)) == (STEPS * case.layers, STEPS * dense)
