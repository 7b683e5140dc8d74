"""The line of a report: what ran, why most likely nothing did, and what helps where much ran dense."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from runs import forward, policy, qkv, run_of
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.fallback import Dense
from sparse_vdit.nodes.host.core.stats import CallCounts, RunStats
from sparse_vdit.nodes.host.ui.summary import detail, grids_line, hint, report_line, stats_line

CPU = torch.device("cpu")


def stats(sparse: int = 0, dense: dict[Dense, int] | None = None) -> RunStats:
    """Of a run with these calls."""
    made = RunStats()
    for layer in range(sparse):
        made.count_sparse(layer, 0.31, "torch", CPU)
    made.forward.dense.update(dense or {})
    return made


def test_the_line_of_a_run() -> None:
    made = stats(96, {fallback.WARM_UP: 24, fallback.CROSS_ATTENTION: 120})
    made.seconds = 1.234
    expected = "96 sparse / 24 dense calls (warm-up 24), mean density 0.31, backend torch, 1234 ms in sparse attention"
    assert stats_line(made) == f"Sparse-vDiT: {expected}"
    made.forward.grids[TokenGrid(5, 7, 9, 11, 0)] = 120
    made.note("said once")
    made.note("said once")
    said = stats_line(made, "wan, plan user/mine", "a warning")
    assert said == f"Sparse-vDiT: wan, plan user/mine, 11+5x7x9 tokens: {expected}; a warning; said once"


def test_the_line_of_a_run_that_stays_dense_from_the_start() -> None:
    assert report_line(Dense("why")) == "Sparse-vDiT: everything runs dense: why"
    assert detail(Dense("why"))["refusal"] == "why"


def test_only_some_of_many_grids_are_named() -> None:
    made = CallCounts()
    assert grids_line(made) == ""
    for width, calls in ((9, 3), (10, 5), (11, 1), (12, 2)):
        made.grids[TokenGrid(5, 7, width)] = calls
    assert grids_line(made) == "5x7x10 and 5x7x9 and 2 others tokens"


def test_nothing_sparse_is_said_with_the_most_likely_reason() -> None:
    made = stats()
    assert "nothing ran sparse: no self-attention of the model reached the pack" in stats_line(made)
    for why, calls, says in (
        (fallback.WARM_UP, 30, "smaller start_percent"),
        (fallback.VACE_BLOCK, 50, "smaller start_percent"),
        (fallback.NO_KERNELS, 2, "no fast sparse kernel"),
        (Dense("guides that are not whole frames"), 3, "nothing ran sparse: guides that are not whole frames"),
    ):
        made.forward.dense[why] = calls
        assert says in stats_line(made)
    assert fallback.WARM_UP.hint not in stats_line(made)


@pytest.mark.parametrize(
    ("sparse", "dense", "helps"),
    [
        (75, {fallback.OTHER_TOKENS: 25}, None),  # a quarter is not yet much
        (74, {fallback.OTHER_TOKENS: 26}, fallback.OTHER_TOKENS),
        (
            4,
            {fallback.OTHER_TOKENS: 26, fallback.BACKEND_REFUSED: 30, fallback.WARM_UP: 40},
            fallback.BACKEND_REFUSED,
        ),
        (74, {fallback.OTHER_TOKENS: 26, fallback.CROSS_ATTENTION: 500}, fallback.OTHER_TOKENS),  # which are no plan's
        (1, {why: 90 for why in vars(fallback).values() if isinstance(why, Dense) and why.intended}, None),
        (10, {Dense("guides that are not whole frames"): 90}, None),  # says itself what there is to say
    ],
)
def test_what_keeps_much_of_a_sparse_run_dense_is_said_with_what_helps(
    sparse: int, dense: dict, helps: Dense | None
) -> None:
    said = stats_line(stats(sparse, dense))
    hints = {why.hint for why in vars(fallback).values() if isinstance(why, Dense) and why.hint}
    assert [one for one in hints if one in said] == ([helps.hint] if helps else [])
    assert ("much ran dense" in said) == bool(helps)


def test_a_hint_is_of_the_commonest_reason() -> None:
    dense = Counter({fallback.MASKED: 3, fallback.OTHER_TOKENS: 4, fallback.MEASURED: 9})
    assert hint(dense) == fallback.OTHER_TOKENS.hint
    assert hint(Counter()) == fallback.UNREACHED


def test_the_details_hold_the_line_the_counts_and_the_plan() -> None:
    run = run_of(policy(Diagonal(0), layers=2))
    forward(run, 0.5, qkv())
    found = detail(run)
    assert found["report"] == report_line(run)
    assert (found["refusal"], found["stopped"], found["sparse"]) == (None, None, 2)
    assert found["plan"] == run.policy.title
    run.stop(fallback.NOT_FINITE)
    assert detail(run)["stopped"] == fallback.NOT_FINITE.reason
