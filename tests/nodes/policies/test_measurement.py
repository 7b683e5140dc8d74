"""How many rows of heads are measured in a run, so that measuring keeps to its share of the time."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from calibrations import GRID, LAYERS, START, measurement, qkv
from load_pack import ROOT
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.policies import measure
from sparse_vdit.nodes.host.policies.measure import (
    MIN_ROWS,
    NO_FULL_TILE,
    OTHER_SIZE,
    ROWS,
    Measurement,
    judged_share,
)
from sparse_vdit.nodes.host.policies.profile import ProfilePolicy
from sparse_vdit.nodes.host.session.call import Call

ONE_DENSE = (1.0, 0.6, 0.3)


def call(layer: int, grid: tuple[int, int, int] = GRID, **more: object) -> Call:
    return Call(layer, TokenGrid(*grid), *(x.unflatten(-1, (3, 128)) for x in qkv(layer, grid)), **more)


def test_fewer_rows_where_a_band_has_too_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    policy = ProfilePolicy.__new__(ProfilePolicy)
    policy.profiler = SimpleNamespace(candidates=range(111), band_at=lambda sigma: int(sigma < START))

    def make(count: int) -> ProfilePolicy:
        rows.append(count)
        return policy

    large = Call(0, TokenGrid(21, 45, 80), *[torch.empty(1, 75600, 1, 128, device="meta")] * 3)
    for dense in ((1.0,), (1.0, 0.99, 0.98, 0.97)):
        found = Measurement(make, 40, dense[-1], {}, sigmas=(*dense, 0.8, 0.6, 0.4, 0.2))
        monkeypatch.setitem(measure.SLOWER, "meta", 12.0)  # times .0083 of the dense operations
        found._start(large)
    first, fewer, second = rows
    assert first == second == ROWS
    assert MIN_ROWS < fewer < 0.55 * ROWS


@pytest.mark.parametrize(("seconds", "rows"), [(0.5, 32), (1.9, 32), (3.0, 10), (90.0, 8)])
def test_rows_are_left_out_where_judging_takes_longer_than_foreseen(
    monkeypatch: pytest.MonkeyPatch, seconds: float, rows: int
) -> None:
    """Of 20 other seconds: up to twice the 5 % they are left alone. What the first step took, in which masks are made,
    counts for nothing."""
    monkeypatch.setattr(measure, "MIN_ROWS", 8)
    found = measurement(sigmas=ONE_DENSE)
    now = [100.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    found.begin_step(1.0)
    assert found.take(call(0))
    found.policy.profiler.rows = 32
    found.policy.observe(call(0), 1.0)
    profiler = found.policy.profiler
    now[0], found.milliseconds = 106.0, 5000.0
    found.begin_step(0.97)
    assert profiler.rows == 32
    now[0], found.milliseconds = 126.0 + seconds, 5000.0 + 1000 * seconds
    found.begin_step(0.95)
    assert profiler.rows == profiler.evaluator.rows == rows
    assert profiler.profile().header.parameters["rows"] == rows


def test_what_is_measured_is_known_at_the_end_alone() -> None:
    found = measurement(sigmas=ONE_DENSE)
    assert not found.met and found.so_far() is None
    found.begin_step(1.0)
    for layer in range(LAYERS):
        assert not found.complete
        assert found.take(call(layer))
        found.observe(call(layer))
        assert not found.take(call(layer)), "the same layer twice in a step"
    assert found.complete and found.met
    profile = found.end()
    assert profile.samples.tolist() == [[1] * LAYERS, [0] * LAYERS, [0] * LAYERS]
    assert (profile.header.parameters["sigma_high"], profile.header.parameters["sigma_low"]) == (1.0, 1.0)
    assert not found.active and found.policy is None
    assert not found.take(call(0))
    assert found.end() is profile
    assert found.summary().startswith(f"measured {LAYERS} calls in 0.00 s")


def test_what_is_dropped_is_forgotten() -> None:
    found = measurement(sigmas=ONE_DENSE)
    found.begin_step(1.0)
    assert found.take(call(0))
    found.observe(call(0))
    found.drop()
    assert found.end() is None and not found.active


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        ({"grid": (5, 8, 10)}, OTHER_SIZE),
        ({"grid": (1, 8, 9)}, NO_FULL_TILE),
        ({"mask": torch.zeros(1, 1, 360)}, fallback.MASKED.reason),
    ],
)
def test_calls_that_cannot_be_measured_are_counted_by_their_reason(refused: dict, why: str) -> None:
    found = measurement(sigmas=ONE_DENSE)
    found.begin_step(1.0)
    assert found.take(call(0))
    found.observe(call(0))
    assert not found.take(call(1, **refused))
    assert f", 1 left out: {why}" in found.summary()


def test_each_layer_is_measured_in_the_first_step_of_its_band_unless_an_earlier_run_has() -> None:
    known = frozenset({(0, 0), (0, 1), (0, 2), (1, 1)})
    found = measurement(sigmas=(1.0, 0.8, 0.6, 0.3), known=known)
    found.sparse = True
    for sigma, wanted in ((0.8, [0, 2]), (0.6, []), (0.3, [0, 1, 2])):
        found.begin_step(sigma)
        measured = [layer for layer in range(LAYERS) if found.take(call(layer))]
        assert measured == wanted
        for layer in measured:
            found.observe(call(layer))
    assert found.complete == 1, "a band counts that an earlier run has measured in part"


def test_what_judging_costs_is_what_was_counted() -> None:
    """Against the operations that PyTorch counts at a real model's size, kept in a result file."""
    (path,) = sorted((ROOT / "benchmarks" / "results").glob("profile_cost-*.json"))[-1:]
    for row in json.loads(path.read_text())["rows"]:
        share = judged_share(row["tokens"], row["head_dim"], row["candidates"], row["rows"])
        assert share == pytest.approx(row["fraction_of_dense"], rel=0.05), row
