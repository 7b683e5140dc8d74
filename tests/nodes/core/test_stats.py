"""Counts of a run by forward and layer, and of a forward that is repeated."""

from __future__ import annotations

import json

import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.stats import RunStats, grid_name

CPU = torch.device("cpu")


def test_a_repeated_forward_counts_once() -> None:
    stats = RunStats()
    stats.begin_forward(0.9)
    stats.count_dense(fallback.WARM_UP, 0)
    stats.begin_forward(0.5)
    stats.count_sparse(0, 0.3, "torch", CPU)
    stats.forward.reached[0] += 1
    stats.rollback()
    assert stats.total().sparse == 0 and not stats.forward.reached
    stats.count_dense(fallback.NOT_FINITE, 0)
    assert stats.total().dense == {fallback.WARM_UP: 1, fallback.NOT_FINITE: 1}
    assert stats.forwards() == [
        {"sigma": 0.9, "sparse": 0, "dense": {"dense start": 1}},
        {"sigma": 0.5, "sparse": 0, "dense": {fallback.NOT_FINITE.reason: 1}},
    ]


def test_the_total_is_of_all_forwards() -> None:
    stats = RunStats()
    for sigma, density, backend in ((0.9, 0.2, "torch"), (0.5, 0.4, "triton")):
        stats.begin_forward(sigma)
        stats.forward.grids[TokenGrid(5, 7, 9, 11, 0)] += 2
        stats.count_sparse(1, density, backend, CPU)
        stats.count_dense(fallback.CROSS_ATTENTION)
    total = stats.total()
    assert (total.sparse, total.calls()) == (2, 2)
    assert total.layers == {1: {"sparse": 2}, None: {fallback.CROSS_ATTENTION: 2}}
    assert total.self_attention() == {}
    assert stats.backend == "triton"
    detail = stats.detail()
    assert json.loads(json.dumps(detail)) == detail
    assert abs(detail["mean_density"] - 0.3) < 1e-9
    assert detail["grids"] == {"11+5x7x9": 4}
    assert detail["backends"] == {"torch": 1, "triton": 1}
    assert detail["devices"] == {"cpu": 2}
    assert list(detail["layers"]) == ["1", "unknown"]


def test_calls_before_any_forward_count_too() -> None:
    stats = RunStats()
    stats.count_dense(fallback.UNSEEN_FORWARD)
    stats.begin_forward(0.5)
    assert stats.total().dense == {fallback.UNSEEN_FORWARD: 1}
    assert [forward["sigma"] for forward in stats.forwards()] == [None, 0.5]


def test_nothing_ran_in_an_empty_run() -> None:
    detail = RunStats().detail()
    assert (detail["sparse"], detail["mean_density"], detail["forwards"], detail["layers"]) == (0, None, [], {})
    assert RunStats().backend is None


def test_a_note_is_said_once() -> None:
    stats = RunStats()
    for text in ("one", "two", "one"):
        stats.note(text)
    assert stats.notes == ["one", "two"]


def test_names_of_grids() -> None:
    sizes = ((21, 45, 80, 0, 0), (21, 45, 80, 256, 0), (5, 7, 9, 0, 63), (5, 7, 9, 3, 2))
    assert [grid_name(TokenGrid(*size)) for size in sizes] == ["21x45x80", "256+21x45x80", "5x7x9+63", "3+5x7x9+2"]
