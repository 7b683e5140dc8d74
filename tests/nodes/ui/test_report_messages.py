"""The page of report messages: a row for all that a report can say, no row for what none says, a line explained."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import torch
from calibrations import SIGMAS, calibration, generate, store, toy
from load_pack import ROOT
from model_stand_ins import GRID, TOKENS, AnimateWanModel, HunyuanVideo, LTXAVModel, MiniMaxH3Model, WanModel
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.patterns import Dense, Skip
from sparse_vdit.kernels.spot_check import WrongOutput, spot_check
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.stats import RunStats
from sparse_vdit.nodes.host.hooks import replaced
from sparse_vdit.nodes.host.library.shipped import Variant
from sparse_vdit.nodes.host.models import LTX, MINIMAX_H3, WAN, detect, token_grid
from sparse_vdit.nodes.host.session import execution
from sparse_vdit.nodes.host.ui.summary import run_report
from sparse_vdit.plans.plan.binding import BoundPlan
from sparse_vdit.plans.plan.plan import Provenance, uniform_plan
from sparse_vdit.plans.search import kept_dense, search
from sparse_vdit.plans.view.expected import expected_distance
from torch import nn

PAGE = (ROOT / "docs" / "reference" / "report-messages.md").read_text(encoding="utf-8")
NEVER_SAID = {fallback.PROFILING}  # `Profile Heads` names these calls itself


def first_cells(text: str) -> list[str]:
    """Of all rows of a text's tables, without their heads."""
    rows = re.findall(r"^\| (.+?) \| .+ \|$", text, re.M)
    return [row for row in rows if row not in ("it says", "part", "in the counts")]


def pattern(cell: str) -> str:
    """Regular expression of a cell, whose dots stand for anything."""
    return ".*".join(map(re.escape, re.split(r" ?\.\.\. ?", cell)))


def says(cell: str, message: str) -> bool:
    """Whether a cell stands for a message."""
    return re.fullmatch(pattern(cell), message) is not None


def latents(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def grids() -> list[str]:
    """Why the token grid of a forward can be unknown."""
    x, talking = latents(1, 16, 5, 13, 17), type("MultiTalkGetAttnMapPatch", (), {})()
    ltx = {"x": latents(1, 128, *GRID), "context": latents(1, 11, 96)}
    return [
        str(token_grid(WanModel(), WAN, {})),
        str(token_grid(WanModel(), WAN, {"x": latents(4, 4)})),
        str(token_grid(WanModel(), WAN, {"x": x, "transformer_options": {"patches": {"attn1_patch": [talking]}}})),
        str(token_grid(MiniMaxH3Model(), MINIMAX_H3, {"x": x})),
        str(token_grid(LTXAVModel(), LTX, {**ltx, "generated_keyframes": {}})),
        str(token_grid(LTXAVModel(), LTX, {**ltx, "keyframe_idxs": latents(1, 3, 62, 2)})),
        str(token_grid(LTXAVModel(), LTX, {**ltx, "context": latents(1, TOKENS, 96)})),
    ]


def whole_runs() -> list[str]:
    """Why a model stays as it is."""
    bare = WanModel()
    del bare.patch_size
    models = (nn.Identity(), AnimateWanModel(), bare, HunyuanVideo((4, 4, 4)))
    other = fallback.other_model("mine", "for a model with heads 40, this one has heads 12")
    return [str(why) for why in (other, *map(detect, models))]


def verdicts() -> list[str]:
    """Who took attention away."""
    watch, told = replaced.Watch(SimpleNamespace(), nn.Identity(), 40), []
    watch.forwards, watch.on_top = 1, "sage of pack"
    for layers, sparse in ((0, 0), (38, 9), (40, 9)):
        stats = RunStats()
        for layer in range(layers):
            stats.forward.reached[layer] += 1
        for layer in range(sparse):
            stats.count_sparse(layer, 0.3, "torch", torch.device("cpu"))
        told.append(watch.verdict(stats))
    return told


def notes() -> list[str]:
    """What is said beside reasons; the last two as their sources, which no test here can run, have them."""
    plan = BoundPlan(uniform_plan("wan", 1, 1, 128, GRID, Skip()))
    return [
        fallback.NOT_FINITE_INPUTS.reason,
        execution.NOT_TIMED,
        plan.distance_warning(TokenGrid(5, 7, 90)),
        search.skip_warning(plan.plan),
        expected_distance(replace(plan.plan, provenance=Provenance(parameters={"predicted_error": 0.1}))),
        "the int8 kernel failed and was left out: no image",
        "triton: its self-test failed: no image",
        "triton: it failed: no image",
        *wrong_output(),
        "preset fast ignored, a plan is connected",
        kept_dense.missing_layers(40, kept_dense.kept_dense("39-41")),
    ]


def wrong_output() -> list[str]:
    """What a spot check says, beside the name of the backend."""
    builder = TileListBuilder(TokenGrid(1, 8, 16))
    number, x = builder.add(Dense()), torch.ones(1, 128, 1, 64)
    with pytest.raises(WrongOutput) as caught:
        spot_check(AttentionCall(x, x, x, builder.build(), (number,)), 2 * x)
    return [f"triton: {caught.value}"]


def broken_outputs() -> list[str]:
    """What is said of outputs that are not finite, beside layers and heads."""
    return [f"layer 2, head 1: {fallback.NOT_FINITE}; this forward was computed again dense, and all that followed ran "
            "dense"]  # fmt: skip


def shipped() -> list[str]:
    """What is said of runs with a shipped plan: the first, the next, one that cannot measure, and why it was taken."""
    told = Variant("toy", "3 layers of 3 heads").notes(toy("prior"), 8)
    with TemporaryDirectory() as place:
        for number in range(3):
            run = calibration(Path(place) / str(number > 1), shipped=toy("prior"))
            if number > 1:
                run.policy.measurement.observe = lambda *_: 1 / 0
            generate(run)
            told += run.policy.notes
    return told


def calibrated() -> list[str]:
    """What is said of runs without a plan: the first, the next, one of a model that is not known again, one that ends
    in the warm-up; and of a broken file. The last six as their sources, which take other trouble, have them."""
    told = []
    with TemporaryDirectory() as place:
        folder = Path(place)
        for options in ({}, {}, {"fingerprint": None}):
            run = calibration(folder, **options)
            generate(run)
            told += run.policy.notes
        in_warm_up = calibration(folder / "other")
        generate(in_warm_up, SIGMAS[:2])
        told += in_warm_up.policy.notes
        (plan,) = folder.glob("*.json")
        plan.write_text("{}")
        files = store(folder)
        files.plan(files.find(None), "fast")
        told += files.messages
    return [
        *told,
        "wan.json could not be read: denied",
        "wan.json is of no use: it is broken; it could not be renamed: denied",
        "no plan was found: no attention call could be measured",
        "what was measured was not added: profiles cannot be merged",
        "calibration failed (ValueError: trouble)",
        "choosing a plan failed (ValueError: trouble)",
    ]


REASONS = [why for why in vars(fallback).values() if isinstance(why, fallback.Dense)]
MESSAGES = [why.reason for why in REASONS if why not in NEVER_SAID]
MESSAGES += [*broken_outputs(), *grids(), *whole_runs(), *verdicts(), *notes()]
MESSAGES += [*shipped(), *calibrated()]
LINE = re.search(r"^```\n(.*)\n```$", PAGE, re.M)[1]
PARTS, ROWS = (first_cells(part) for part in PAGE[PAGE.index(LINE) :].split("## Why calls ran dense"))


@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))  # some tell times
def test_every_message_has_a_row(message: str) -> None:
    assert [row for row in ROWS if says(row, message)], "no row of the page is about it"


@pytest.mark.parametrize("row", ROWS)
def test_no_row_is_about_nothing(row: str) -> None:
    assert any(says(row, message) for message in MESSAGES)
    assert ROWS.count(row) == 1


def test_a_removed_row_is_missed() -> None:
    for row in ROWS:
        rest = [other for other in ROWS if other != row]
        assert any(not any(says(other, message) for other in rest) for message in MESSAGES), row


BACKEND = "torch (triton: dtype float32 is neither bfloat16 nor float16; compiled: device cpu is not an NVIDIA GPU)"


def test_the_line_is_what_a_report_looks_like() -> None:
    """And every part of it is explained, in its order."""
    stats = RunStats()
    for layer in range(64):
        stats.count_sparse(layer, 0.11, BACKEND, torch.device("cpu"))
    stats.forward.dense[fallback.WARM_UP] = 16
    stats.forward.grids[TokenGrid(9, 20, 30)] = 80
    stats.seconds = 82.099
    stats.note(
        "the plan was measured on 5x8x11 tokens at density 0.70, this video has 9x20x30 tokens, where its density is "
        "0.11: height and width and density are far off, profile at this size"
    )
    times = "a call takes at density 0.10 1137.20 ms sparse and 3596.53 ms dense"
    policy = SimpleNamespace(
        title="wan, plan user/small_wan (measured)",
        plan_name="plan user/small_wan",
        remark="",
        expected="",
        tuner=SimpleNamespace(speedup=lambda calls: 2.21),
        summary=lambda: times,
        advice=lambda: None,
    )
    assert str(run_report(stats, policy)) == LINE
    rest = LINE.removeprefix("Sparse-vDiT: ")
    for part in PARTS:
        found = re.match(r"[ ,;:]*" + pattern(part), rest)
        assert found, f"{part!r} is not what comes next in {rest!r}"
        rest = rest[found.end() :]
    assert not rest
