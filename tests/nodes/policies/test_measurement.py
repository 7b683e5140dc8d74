"""How many rows of heads are measured in a run, so that measuring keeps to its share of the time."""

from __future__ import annotations

import json

import pytest
import torch
from calibrations import GRID, measuring
from load_pack import ROOT
from sparse_vdit.nodes.host.calibration import measuring as measuring_module
from sparse_vdit.nodes.host.calibration.measuring import LEAST_ROWS, ROWS, Measuring, judged_share
from sparse_vdit.nodes.host.runs.engine import Call
from sparse_vdit.nodes.host.runs.profile_engine import ProfileEngine


def test_fewer_rows_where_one_dense_step_is_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    engine = ProfileEngine.__new__(ProfileEngine)
    engine.profiler = type("Candidates", (), {"candidates": range(111)})

    def make(count: int) -> ProfileEngine:
        rows.append(count)
        return engine

    call = Call(0, (21, 45, 80, 0, 0), *[torch.empty(1, 75600, 1, 128, device="meta")] * 3)
    for steps in (1, 4):
        found = Measuring(make, 40, steps, {})
        monkeypatch.setitem(measuring_module.SLOWER, "meta", 12.0)  # times .0083 of the dense operations
        found._start(call)
    first, fewer, second = rows
    assert first == second == ROWS
    assert LEAST_ROWS < fewer < 0.55 * ROWS


@pytest.mark.parametrize(("seconds", "rows"), [(0.5, 32), (1.9, 32), (3.0, 10), (90.0, 8)])
def test_rows_are_left_out_where_judging_takes_longer_than_foreseen(
    monkeypatch: pytest.MonkeyPatch, seconds: float, rows: int
) -> None:
    """Of 20 other seconds: up to twice the 5 % they are left alone. What the first step took, in which masks are made,
    counts for nothing."""
    monkeypatch.setattr(measuring_module, "LEAST_ROWS", 8)
    found = measuring(2)
    now = [100.0]
    monkeypatch.setattr(measuring_module.time, "perf_counter", lambda: now[0])
    found.begin(1.0)
    q, k, v = torch.randn(3, 1, 360, 3, 128, generator=torch.Generator().manual_seed(1)).unbind()
    call = Call(0, (*GRID, 0, 0), q, k, v)
    assert found.wants(call, spread=True)
    found.engine.profiler.rows = 32
    found.engine.observe(call, 1.0)
    profiler = found.engine.profiler
    now[0], found.milliseconds = 106.0, 5000.0
    found.begin(0.97)
    assert profiler.rows == 32
    now[0], found.milliseconds = 126.0 + seconds, 5000.0 + 1000 * seconds
    found.begin(0.95)
    assert profiler.rows == profiler.evaluator.rows == rows
    assert profiler.own_profile().header.parameters["rows"] == rows


def test_what_judging_costs_is_what_was_counted() -> None:
    """Against the operations that PyTorch counts at a real model's size, kept in a result file."""
    (path,) = sorted((ROOT / "benchmarks" / "results").glob("profile_cost-*.json"))[-1:]
    for row in json.loads(path.read_text())["rows"]:
        share = judged_share(row["tokens"], row["head_dim"], row["candidates"], row["rows"])
        assert share == pytest.approx(row["fraction_of_dense"], rel=0.05), row
