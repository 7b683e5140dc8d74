"""Outputs that are not finite: the forward is computed again dense, once, and so is all that follows; the report names
layers and heads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dense_attention import model_attention
from runs import HEADS, dense_calls, forward, line, policy, qkv, run_of, sparse_calls
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.session.finite_check import FiniteCheck
from sparse_vdit.nodes.host.session.run import Run
from spoiled_kernels import nan_in, through

LAYERS = 6


@pytest.fixture
def run() -> Run:
    """A run that is sparse at every noise level."""
    return run_of(policy(Diagonal(0), layers=LAYERS))


def counted(calls: list) -> Callable:
    """The model's own attention, which counts its calls."""

    def own(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        return model_attention(*args, **kwargs)

    return own


def test_the_forward_is_repeated_once_dense_and_the_run_stays_dense(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, own = qkv(), []
    dense = model_attention(*x, HEADS)
    forward(run, 0.7, x, own=counted(own))
    assert sparse_calls(run) == LAYERS and not own
    calls = through(monkeypatch, nan_in({2: (1,), 4: (0, 2)}))
    assert all(torch.equal(out, dense) for out in forward(run, 0.5, x, own=counted(own)))
    assert (len(calls), len(own)) == (LAYERS, LAYERS)
    assert run.stopped is fallback.NOT_FINITE
    assert all(torch.equal(out, dense) for out in forward(run, 0.3, x, own=counted(own)))
    assert (len(calls), len(own)) == (LAYERS, 2 * LAYERS), "sparse attention was tried again"
    assert (sparse_calls(run), dense_calls(run)) == (LAYERS, {fallback.NOT_FINITE: 2 * LAYERS})
    assert [forward["sparse"] for forward in run.stats.forwards()] == [LAYERS, 0, 0]
    assert [failure["what"] for failure in run.stats.failures] == [
        f"layer 2, head 1: {fallback.NOT_FINITE}",
        f"layer 4, head 0, 2: {fallback.NOT_FINITE}",
    ]
    said = f"layer 2, head 1; layer 4, head 0, 2: {fallback.NOT_FINITE}; this forward was computed again dense, and all"
    assert line(run).count(said) == 1
    assert fallback.NOT_FINITE_INPUTS.reason not in line(run)


def test_infinite_outputs_are_found_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    through(monkeypatch, nan_in({0: (1,)}, -torch.inf))
    forward(run, 0.5, qkv())
    assert run.stopped is fallback.NOT_FINITE


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_model_that_gives_nan_itself_is_not_blamed_on_the_kernel(run: Run, bad: int) -> None:
    """The first layer's q, k and v are looked at in the repeated forward, and that is said."""
    x = qkv()
    x[bad][0, 5] = torch.nan
    for sigma in (0.7, 0.5):
        forward(run, sigma, x)
    assert dense_calls(run) == {fallback.NOT_FINITE_INPUTS: 2 * LAYERS}
    assert fallback.NOT_FINITE_INPUTS.sentence in line(run)
    assert fallback.NOT_FINITE.reason not in line(run) and not run.stats.failures


def test_a_later_layer_with_bad_inputs_alone_is_the_kernels_fault(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its q, k and v are bad because the first layer was."""
    through(monkeypatch, nan_in({1: (0,)}))
    good, bad = qkv(), qkv()
    bad[2][0, 5] = torch.nan
    forward(run, 0.5, lambda layer: good if layer < 3 else bad)
    assert "layer 1, head 0; layer 3, head 0, 1, 2" in line(run)
    assert fallback.NOT_FINITE_INPUTS.reason not in line(run)


def test_nothing_is_looked_at_in_a_dense_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(FiniteCheck, "look_at", lambda *args: looked.append("output"))
    monkeypatch.setattr(FiniteCheck, "look_at_inputs", lambda *args: looked.append("inputs"))
    run = run_of(policy(Diagonal(0), start=0.8, layers=LAYERS))
    forward(run, 0.9, qkv())
    assert run.check.flags is None and not looked
    forward(run, 0.5, qkv())
    assert looked == ["output"] * LAYERS


def test_a_forward_that_went_dense_on_the_way_is_not_repeated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error the rest of the run is dense for that reason; what ran sparse before is looked at all the same."""

    def make(number: int, out: torch.Tensor) -> torch.Tensor:
        if number == 3:
            raise RuntimeError("no more")
        return out

    calls, own = through(monkeypatch, make), []
    forward(run, 0.5, qkv(), own=counted(own))
    assert (len(calls), len(own)) == (4, LAYERS - 3)
    assert run.stopped is fallback.KERNEL_FAILED


def test_flags_are_of_one_forward() -> None:
    check = FiniteCheck()
    out = torch.zeros(2, 7, 3, 5)
    out[1, 3, 2, 4] = torch.nan
    check.look_at(0, out)  # nothing was begun
    assert check.locate() == []
    check.begin_forward(4, 3, torch.device("cpu"))
    check.look_at(1, out)
    check.look_at(1, torch.zeros(2, 7, 3, 5))
    assert check.locate() == ["layer 1, head 2"]
    assert not check.inputs_were_bad()
    check.look_at_inputs(0, (out,))  # not the layer in question
    assert not check.inputs_were_bad()
    check.look_at_inputs(1, (torch.zeros(3), out))
    assert check.inputs_were_bad()
    check.begin_forward(4, 3, torch.device("cpu"))
    assert check.locate() == [] and not check.inputs_were_bad()
    check.free()
    assert check.flags is None


def test_heads_of_a_part_of_the_model_have_its_numbers() -> None:
    check, out = FiniteCheck(), torch.zeros(1, 7, 2, 5)
    out[0, 3, 1] = torch.inf
    check.begin_forward(2, 5, torch.device("cpu"))
    check.look_at(1, out, (2, 3))
    assert check.locate() == ["layer 1, head 3"]


def test_what_another_process_finds_makes_this_one_repeat_too() -> None:
    """They wait for each other in every forward, so both have to compute it again."""
    x, own = qkv(), []
    run = run_of(policy(Diagonal(0), layers=LAYERS))
    answers = iter((True, False))  # an output was not finite, the model's own numbers were
    asked = []
    run.agree = lambda here: asked.append(here) or next(answers)
    assert all(torch.equal(out, model_attention(*x, HEADS)) for out in forward(run, 0.5, x, own=counted(own)))
    assert asked == [False, False] and len(own) == LAYERS
    assert (sparse_calls(run), dense_calls(run)) == (0, {fallback.OTHER_RANK: LAYERS})
    assert not run.stats.failures and "computed again" not in line(run)


def test_large_finite_numbers_are_fine() -> None:
    check = FiniteCheck()
    check.begin_forward(1, 1, torch.device("cpu"))
    check.look_at(0, torch.full((1, 400, 1, 64), 6e4, dtype=torch.float16))
    assert check.locate() == []
