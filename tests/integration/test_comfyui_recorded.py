"""Families in a real ComfyUI, their forwards recorded by a stand-in for its memory compiler (`graph_recorder.py`)."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from comfyui.family_cases import SPARSE, Case
from comfyui.installation import comfyui_path
from comfyui.prompts import node
from comfyui.results import PLANS, counts, latents, new_log, report
from comfyui.server import Server
from sparse_vdit.kernels.patterns import Dense, Diagonal, Routed
from sparse_vdit.plans.plan.files import save_plan

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

RECORDED = ("minimax h3", "ltx-2", "hunyuan video, masked text", "cogvideox")
ROWS = ((Diagonal(0), Routed(0.3)), (Dense(),), (Routed(0.5), Routed(0.3)))
"""Routed heads, and a layer that is the model's own attention."""


CODE = ("wan", "hunyuan_video", "cogvideo", "minimax", "lightricks")
"""Folders of the families' models."""


def test_no_family_captures_its_blocks_as_cuda_graphs() -> None:
    """ComfyUI does so with the blocks of some language and sound models. Then calls in them stay dense (CAPTURED)."""
    folder = comfyui_path()
    if folder is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; what its models capture was not looked at")
    files = [file for name in CODE for file in (folder / "comfy/ldm" / name).glob("*.py")]
    assert {file.parent.name for file in files} == set(CODE)
    assert [file.name for file in files if "enable_graph=True" in file.read_text(encoding="utf-8")] == []


def recorded(prompt: dict) -> dict:
    """The workflow with the stand-in around its forwards."""
    prompt["recorded"] = node("TestRecordedForward", model=("model", 0), plant=False)
    place = "patch" if "patch" in prompt else "ksampler"
    prompt[place]["inputs"]["model"] = ["recorded", 0]
    return prompt


def sequences(server: Server, before: int) -> int:
    """How many sequences of allocations the blocks of one shape had."""
    return max(int(count) for count in re.findall(r"RecordedForward: .* (\d+) sequences", new_log(server, before)))


@pytest.mark.parametrize("raced", [False, True])
@pytest.mark.parametrize("case", [case for case in SPARSE if case.name in RECORDED], ids=lambda case: case.name)
def test_a_plan_adds_one_sequence_to_the_record(models: Server, case: Case, raced: bool) -> None:
    """Where calls are dense, sparse and routed in turn, with a key bias or without, in the warm-up or timed beside the
    model's own attention."""
    case = replace(case, rows=ROWS)
    save_plan(case.plan(), models.base / PLANS / "recorded.json", overwrite=True)
    before = len(models.log_text())
    latents(models, recorded(case.sampled({}, "model")))
    plain = sequences(models, before)
    options = {"backend": "auto", "start_percent": 0.0 if raced else 0.3}
    truth = latents(models, case.patched("recorded", **options, only_if_faster=False))
    prompt = recorded(case.patched("recorded", **options, only_if_faster=raced))
    if raced:  # the times are given, so that sparse attention always wins
        prompt["times"] = node("TestTimesGiven", model=("patch", 0), dense=10.0, exact=1.0)
        prompt["ksampler"]["inputs"]["model"] = ["times", 0]
    before = len(models.log_text())
    assert torch.equal(latents(models, prompt), truth)
    assert bool(re.search(r"timed [1-9]\d* dense, [1-9]", new_log(models, before))) == raced
    sparse, dense = counts(report(models, before))
    assert sparse and dense
    assert sequences(models, before) <= 2 * plain  # each of the model's own with a dense call, and with a sparse one
