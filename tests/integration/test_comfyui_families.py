"""Every model family in a real ComfyUI: small checkpoints with random weights, the real loaders and samplers."""

from __future__ import annotations

import re

import pytest
import torch
from comfyui import prompts
from comfyui.family_cases import DENSE, SPARSE, STEPS, Case
from comfyui.prompts import node
from comfyui.recording import record_workflow
from comfyui.results import PLANS, counts, latents, relative_difference, report
from comfyui.server import Server
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.plans.plan.files import load_plan, save_plan
from tolerances import SAMPLED, SAMPLED_DENSE

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

FORWARDS = 2 * STEPS  # cond and uncond, of different text lengths: never in one batch


def texts(case: Case) -> str:
    """The plain workflow of a case."""
    return f"cfg 3, texts of {'equal' if case.texts[0] == case.texts[1] else 'unequal'} length"


@pytest.mark.parametrize("case", SPARSE, ids=lambda case: case.name)
def test_a_family_runs_its_plan_and_nothing_else(models: Server, case: Case) -> None:
    """All dense is the unpatched model; sparse is what direct calls on the hand-written sequence give."""
    save_plan(case.dense_plan(), models.base / PLANS / "dense.json", overwrite=True)
    save_plan(case.plan(), models.base / PLANS / "sparse.json", overwrite=True)
    plain = latents(models, case.sampled({}, "model"))
    assert torch.isfinite(plain).all() and plain.std() > 0.1
    before = len(models.log_text())
    dense = latents(models, case.patched("dense"))
    check_counts(report(models, before), case)
    before = len(models.log_text())
    sparse, line = latents(models, case.patched("sparse")), report(models, before)
    check_counts(line, case)
    direct = latents(models, case.sampled({"direct": case.direct()}, "direct"))
    pairs = {"dense": (dense, plain), "sparse": (sparse, plain), "direct": (sparse, direct)}
    differences = {name: relative_difference(*pair) for name, pair in pairs.items()}
    record_workflow(case.family, case.name, texts(case), counts(line), **differences)
    assert differences["dense"] <= SAMPLED_DENSE
    assert differences["sparse"] > 100 * SAMPLED_DENSE
    assert differences["direct"] <= SAMPLED


def check_counts(line: str, case: Case) -> None:
    """Each layer once in each forward, each of VACE's own blocks dense; equal texts may run in one batch."""
    forwards = {FORWARDS} if case.texts[0] != case.texts[1] else {FORWARDS, STEPS}
    sparse, dense = counts(line)
    assert (sparse, dense) in {(n * case.layers, n * case.dense) for n in forwards}, line
    if dense:
        assert f"{fallback.VACE_BLOCK} {dense}" in line


@pytest.mark.parametrize(("case", "says"), DENSE, ids=lambda value: getattr(value, "name", ""))
def test_what_is_not_understood_stays_dense_and_says_so(models: Server, case: Case, says: str) -> None:
    save_plan(case.plan(), models.base / PLANS / "sparse.json", overwrite=True)
    plain = latents(models, case.sampled({}, "model"))
    before = len(models.log_text())
    assert torch.equal(latents(models, case.patched("sparse")), plain)
    line = report(models, before)
    assert f"Not faster here: {says}" in line
    said = re.search(r"Not faster here: .*?(?=; |\. |\.$|$)", line)[0]
    record_workflow(case.family, case.name, texts(case), (0, 0), sparse=0.0, says=said)


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
    says = re.search(r"MultiTalkGetAttnMapPatch.*?(?= \d|;|$)", line)[0]
    workflow = "MultiTalk's patch after (stand-in for its model)"
    record_workflow(case.family, case.name, workflow, counts(line), sparse=0.0, says=says)


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
    assert (plan.family, plan.layers, plan.heads, plan.head_dim) == (
        case.family,
        case.layers,
        case.heads,
        case.head_dim,
    )
    assert plan.grid == case.grid
    plain = latents(models, case.sampled({}, "model"))
    before = len(models.log_text())
    difference = relative_difference(latents(models, case.patched("made")), plain)
    line = report(models, before)
    check_counts(line, case)
    record_workflow(case.family, case.name, "profiled, searched, saved, patched", counts(line), sparse=difference)
    assert difference > 100 * SAMPLED_DENSE


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
    assert f"{fallback.OTHER_TEXT} {STEPS * case.layers}" in line


def profiled() -> dict:
    """Profile Heads on the base's positive text."""
    prompt = prompts.profiled(steps=STEPS)
    prompt["profile"]["inputs"]["rows"] = 128
    return prompt


def budget() -> dict:
    """A plan of half the density."""
    return node("SparseVDiTSearchPlan", profile=("profile", 1), rule="budget: density", **{"rule.density": 0.6})


WHOLE = ("wan2.1 t2v", "wan vace", "hunyuan video", "cogvideox", "minimax h3", "ltx-2")
ALONE = ("wan vace", "hunyuan video", "cogvideox")


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in SPARSE if case.name in WHOLE], ids=lambda case: case.name)
def test_compiled_models_number_their_blocks_alike(models: Server, case: Case) -> None:
    """Blocks are counted or named inside of compiled code: each layer must still run its own patterns."""
    check_compiled(models, case, "whole")


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in SPARSE if case.name in ALONE], ids=lambda case: case.name)
def test_blocks_compiled_alone_run_their_own_patterns(models: Server, case: Case) -> None:
    """They share code that was made for the first of them."""
    check_compiled(models, case, "blocks")


def check_compiled(models: Server, case: Case, part: str) -> None:
    """Compiled, and then from what was compiled, the plan gives and counts what it gives and counts without."""
    save_plan(case.plan(), models.base / PLANS / "sparse.json", overwrite=True)
    prompt = case.patched("sparse")
    prompt["ksampler"]["inputs"]["cfg"] = 1.0  # one text length: compiling takes long
    eager = latents(models, prompt)
    prompt["compiled"] = node("TestCompile", model=("patch", 0), part=part)
    prompt["ksampler"]["inputs"]["model"] = ["compiled", 0]
    for time in ("first", "again"):
        before = len(models.log_text())
        difference = relative_difference(latents(models, prompt), eager)
        calls = counts(report(models, before))
        workflow = f"torch.compile ({part}, aot_eager) after, {time} (stand-in)"
        record_workflow(case.family, case.name, workflow, calls, uncompiled=difference)
        assert difference <= SAMPLED
        assert calls == (STEPS * case.layers, STEPS * case.dense)
