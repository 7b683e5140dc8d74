"""The line of a report: what ran, why most likely nothing did, and what helps where much ran dense."""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from runs import forward, policy, qkv, run_of
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.fallback import Dense
from sparse_vdit.nodes.host.core.stats import CallCounts, RunStats
from sparse_vdit.nodes.host.ui.summary import Report, detail, grids_line, likely, report_of, run_report

CPU = torch.device("cpu")


def stats(
    sparse: int = 0, dense: dict[Dense, int] | None = None, backend: str = "torch", device: torch.device = CPU
) -> RunStats:
    """Of a run with these calls."""
    made = RunStats()
    for layer in range(sparse):
        made.count_sparse(layer, 0.31, backend, device)
    made.forward.dense.update(dense or {})
    return made


class Told(SimpleNamespace):
    """A policy as far as a report asks one."""

    title, plan_name, remark, expected, tuner, said = "wan, plan user/mine", "plan user/mine", "", "", None, ""

    def summary(self) -> str:
        return self.said

    def advice(self) -> None:
        return None


def told(made: RunStats, **policy: object) -> Report:
    return run_report(made, Told(**policy))


def tuner(speedup: float | None) -> SimpleNamespace:
    """That has timed so much over 120 calls."""
    return SimpleNamespace(speedup=lambda calls: speedup if calls == 120 else None)


COUNTED = "96 of 120 calls sparse at density 0.31 (plan user/mine, "


@pytest.mark.parametrize(
    ("speedup", "backend", "device", "verdict"),
    [
        (1.62, "triton", "cuda:0", f"1.6x faster attention: {COUNTED}measured)"),
        (1.62, "torch", "cpu", f"1.6x faster attention: {COUNTED}measured)"),  # a clock is a clock
        (1.04, "triton", "cuda:0", f"Not faster here: {COUNTED}measured)"),
        (None, "triton", "cuda:0", f"2.2x faster attention: {COUNTED}expected)"),
        (None, "torch", "cpu", f"Sparse attention ran: {COUNTED}not timed)"),
        (None, "torch (triton: no compiler)", "cuda:0", f"Sparse attention ran: {COUNTED}not timed)"),
    ],
)
def test_the_verdict_claims_what_is_known(speedup: float | None, backend: str, device: str, verdict: str) -> None:
    """The factor is of all calls: 120 / (24 + 96 * 0.31) is 2.2, which tells nothing of a CPU."""
    made = stats(96, {fallback.WARM_UP: 24, fallback.CROSS_ATTENTION: 120}, backend, torch.device(device))
    found = told(made, tuner=tuner(speedup))
    assert found.verdict == verdict
    assert found.advice == (fallback.NOT_FASTER.advice if speedup == 1.04 else "24 calls dense: dense start")


def test_the_line_of_a_run() -> None:
    made = stats(96, {fallback.WARM_UP: 24, fallback.CROSS_ATTENTION: 120})
    made.seconds = 1.234
    made.forward.grids[TokenGrid(5, 7, 9, 11, 0)] = 120
    assert str(told(made, said="a warning")) == (
        f"Sparse-vDiT: Sparse attention ran: {COUNTED}not timed). 24 calls dense: dense start. wan, plan user/mine, "
        "11+5x7x9 tokens: 96 sparse / 24 dense calls (dense start 24), backend torch, 1234 ms in sparse attention; "
        "a warning"
    )


def test_the_second_line_is_what_matters_most_and_nothing_is_said_twice() -> None:
    made = stats(40, {fallback.OTHER_TOKENS: 60})
    assert told(made, remark="skipped").advice.startswith("60 of 100 calls dense: the model has more tokens")
    made.note("trouble")
    made.note("trouble")
    found = told(made, remark="dense start skipped: 1 step")
    assert found.advice == "trouble" and str(found).count("trouble") == 1
    assert found.details.count(fallback.OTHER_TOKENS.advice) == 1
    assert told(stats(9), remark="dense start skipped: 1 step").advice == "dense start skipped: 1 step"
    assert told(stats(9)).advice == ""


def test_what_to_expect_of_the_video_is_said_once_of_a_run_that_was_sparse() -> None:
    expected = "Expected: details differ"
    found = told(stats(9, {fallback.WARM_UP: 3}), expected=expected)
    assert found.advice == expected and str(found).count(expected) == 1
    found = told(stats(9), expected=expected, remark="dense start skipped: 1 step")
    assert found.advice != expected and found.details.count(expected) == 1
    assert expected not in str(told(stats(0, {fallback.WARM_UP: 3}), expected=expected))


def test_the_line_of_a_run_that_stays_dense_from_the_start() -> None:
    assert str(report_of(Dense("why", advice="Try it."))) == "Sparse-vDiT: Not faster here: why. Try it."
    assert detail(Dense("why"))["refusal"] == "why"


def test_only_some_of_many_grids_are_named() -> None:
    made = CallCounts()
    assert grids_line(made) == ""
    for width, calls in ((9, 3), (10, 5), (11, 1), (12, 2)):
        made.grids[TokenGrid(5, 7, width)] = calls
    assert grids_line(made) == "5x7x10 and 5x7x9 and 2 others tokens"


def test_nothing_sparse_is_said_with_the_most_likely_reason() -> None:
    made = stats()
    for why, calls in (
        (fallback.UNREACHED, 0),
        (fallback.WARM_UP, 30),
        (fallback.VACE_BLOCK, 50),
        (fallback.NO_KERNELS, 2),
        (Dense("guides that are not whole frames"), 3),
    ):
        made.forward.dense.update({why: calls} if calls else {})
        found = told(made)
        expected = fallback.WARM_UP if why == fallback.VACE_BLOCK else why
        assert found.verdict == f"Not faster here: {expected.sentence}"
        assert found.advice == expected.advice
        assert fallback.WARM_UP.reason in found.details or not made.forward.dense
    assert told(made, advice=lambda: fallback.MEASURED).verdict.endswith(fallback.MEASURED.sentence)


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
    said = told(stats(sparse, dense)).advice
    assert said.endswith(helps.advice) if helps else not re.match(r"\d+ of \d+ calls dense", said)


def test_the_likely_reason_is_the_commonest() -> None:
    dense = Counter({fallback.MASKED: 3, fallback.OTHER_TOKENS: 4, fallback.MEASURED: 9})
    assert likely(dense) == fallback.OTHER_TOKENS
    assert likely(Counter()) == fallback.UNREACHED


def test_the_details_hold_the_line_the_counts_and_the_plan() -> None:
    run = run_of(policy(Diagonal(0), layers=2))
    forward(run, 0.5, qkv())
    found = detail(run)
    assert found["report"] == str(report_of(run))
    assert (found["refusal"], found["stopped"], found["sparse"]) == (None, None, 2)
    assert found["plan"] == run.policy.title
    run.stop(fallback.NOT_FINITE)
    assert detail(run)["stopped"] == fallback.NOT_FINITE.reason
