"""What the viewer is told of a run: its plan before anything was kept dense, and the measured speed-up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from calibrations import calibration, generate
from dense_attention import model_attention
from races import GRID, HEADS, LAYERS, LONG, NARROW, WIDE, TestClock, forward, plan_of, qkv, start
from sparse_vdit.kernels.patterns import Dense
from sparse_vdit.nodes.host.reports import reasons
from sparse_vdit.nodes.host.runs.engine import NOT_VIEWED
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.nodes.host.speed import speeds
from sparse_vdit.plans.search.kept_dense import kept_dense


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "_known", {})


def test_speedup_is_of_all_calls_that_went_by_a_verdict() -> None:
    run, x = start(TestClock(dense=10.0, exact=4.0)), qkv()
    assert run.engine.viewed()["speedup"] is None
    forward(run, 0.9, x)
    forward(run, 0.5, x)
    forward(run, 0.4, x)
    assert run.engine.viewed()["speedup"] == pytest.approx(2.5)


def test_calls_that_lost_count_as_dense() -> None:
    run, x = start(TestClock(dense=10.0, exact=9.9)), qkv()
    for sigma in (0.9, 0.5, 0.4):
        forward(run, sigma, x)
    assert run.ledger.dense[reasons.NOT_FASTER]
    assert run.engine.viewed()["speedup"] == 1.0


def test_the_view_is_of_the_whole_plan_and_the_run_obeys_what_is_kept_dense() -> None:
    plan = plan_of([NARROW, WIDE] * (LAYERS // 2))
    engine = PlanEngine(plan, 0.8, 0.0, "auto", race=None, kept=kept_dense("0"))
    run = Run(engine, model_attention, clock=TestClock(dense=10.0, exact=4.0))
    forward(run, 0.5, qkv(grid=LONG), LONG)
    assert run.ledger.layers[0] == {reasons.KEPT_DENSE: 1}
    assert run.ledger.layers[1]["sparse"] == 1
    told = engine.viewed()
    assert json.loads(json.dumps(told)) == told
    assert told["kept"] == "0"
    kinds = [pattern["kind"] for pattern in told["view"]["patterns"]]
    assert [kinds[n] for n in told["view"]["bands"][0]["heads"][0]] == [plan.pattern(0, 0, 0).kind] * HEADS
    assert Dense.kind not in kinds
    assert told["view"]["grid"] == list(plan.grid)


def test_densities_are_those_of_the_video_and_not_of_the_profile() -> None:
    plan = plan_of([NARROW] * LAYERS)
    run = start(TestClock(dense=10.0, exact=4.0), [NARROW] * LAYERS)
    own = plan.pattern_densities()[0]
    larger = (GRID[0], GRID[1] * 2, GRID[2] * 2)
    forward(run, 0.5, qkv(grid=larger), larger)
    shown = run.engine.viewed()["view"]["patterns"][0]["density"]
    met = run.engine.detail()["bands"][0]["densities"]
    assert shown == pytest.approx(next(iter(met.values()))[0][0], abs=1e-4)
    assert shown != own


def test_calibration_shows_nothing_before_there_is_a_plan_and_tells_its_progress(tmp_path: Path) -> None:
    run, told = calibration(tmp_path), []
    run.engine.measuring.progress = lambda done, of: told.append((done, of))
    assert run.engine.viewed() == NOT_VIEWED
    layers = run.engine.measuring.layers
    generate(run)
    assert told[-1] == (layers, layers)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert run.engine.viewed()["view"]["layers"] == layers
    assert torch.isfinite(torch.tensor(run.engine.viewed()["view"]["expected"]["speedup"]))
