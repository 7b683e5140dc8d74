"""Sparse attention that goes wrong: kernels that fail, memory that runs out, errors of the pack. The output is always
the dense one, the report says what happened, and nothing is tried again."""

from __future__ import annotations

import pytest
import torch
from dense_attention import model_attention
from runs import GRID, HEADS, TOKENS, dense_calls, forward, line, policy, qkv, run_of, sparse_calls
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.fallback import Dense
from sparse_vdit.nodes.host.policies.kernel_tuner import KernelTuner, forget_times
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session import run as run_module
from sparse_vdit.nodes.host.session.run import Run
from sparse_vdit.plans.plan.plan import uniform_plan
from spoiled_kernels import through

LAYERS = 6


@pytest.fixture
def run() -> Run:
    """A run that is sparse at every noise level."""
    return run_of(policy(Diagonal(0), layers=LAYERS))


class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
    """ComfyUI's, as older ones have it: an ordinary exception."""


def failing(*args: object, **kwargs: object) -> None:
    raise ValueError("Cell is empty")


@pytest.mark.parametrize(
    ("error", "why", "says"),
    [
        (RuntimeError("compile failed\nsecond line"), fallback.KERNEL_FAILED, "failed (RuntimeError: compile failed)"),
        (torch.OutOfMemoryError("CUDA out of memory."), fallback.OUT_OF_MEMORY, "memory ran out"),
    ],
)
def test_a_kernel_that_fails_is_not_tried_again_and_the_run_ends_dense(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, why: Dense, says: str
) -> None:
    x = qkv()
    sparse, dense = forward(run, 0.7, x), model_attention(*x, HEADS)

    def fail(number: int, out: torch.Tensor) -> torch.Tensor:
        if number == 3:
            raise error
        return out

    calls = through(monkeypatch, fail)
    out = forward(run, 0.5, x)
    assert all(torch.equal(a, b) for a, b in zip(out, sparse[:3] + [dense] * 3, strict=True))
    assert all(torch.equal(a, dense) for a in forward(run, 0.3, x))
    assert len(calls) == 4
    assert dense_calls(run) == {why: 3 + LAYERS}
    assert run.stats.failures[0]["layer"] == 3
    assert line(run).count(says) == 1 and "layer 3" in line(run) and "second line" not in line(run)
    assert (not run.policy.bound._kept) == (why is fallback.OUT_OF_MEMORY)


@pytest.mark.parametrize("error", [InterruptProcessingException(), KeyboardInterrupt()], ids=repr)
def test_interrupts_pass_through(run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(number: int, out: torch.Tensor) -> torch.Tensor:
        raise error

    through(monkeypatch, fail)
    with pytest.raises(type(error)):
        forward(run, 0.5, qkv())
    assert run.stopped is None


def test_tile_lists_that_cannot_be_made_leave_the_run_dense(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.policy.bound, "lists", failing)
    x = qkv()
    assert all(torch.equal(out, model_attention(*x, HEADS)) for out in forward(run, 0.5, x))
    assert dense_calls(run) == {fallback.KERNEL_FAILED: LAYERS}
    assert line(run).count("Cell is empty") == 1


@pytest.mark.parametrize("what", ["begin_step", "prepare", "decide"])
def test_an_error_of_the_policy_leaves_the_run_dense(run: Run, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(run.policy, what, failing)
    x = qkv()
    for sigma in (0.7, 0.5):
        assert all(torch.equal(out, model_attention(*x, HEADS)) for out in forward(run, sigma, x))
    assert run.stopped is fallback.KERNEL_FAILED
    assert line(run).count("ValueError: Cell is empty") == len(run.stats.failures) == 1


@pytest.mark.parametrize("at", ["place", "begin_timing", "measured", "time", "mask", "events"])
def test_an_error_beside_the_kernels_leaves_the_run_dense_too(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """In all that the pack does around a call, in the warm-up too: said once, and sampling goes on."""
    forget_times()
    plan, start = uniform_plan("wan", LAYERS, HEADS, 128, GRID, Diagonal(0)), 1.0 if at in ("mask", "events") else 0.4
    run = run_of(PlanPolicy(plan, start, 0.0, "auto", KernelTuner()))
    x, mask = qkv(), torch.zeros(1, 1, TOKENS) if at == "mask" else None
    if at == "mask":
        monkeypatch.setattr(run_module, "text_bias", failing)
    elif at == "events":
        monkeypatch.setattr(run.clock, "reserve", failing)
    elif at == "time":
        monkeypatch.setattr(run.executor, "time", failing)
    elif at == "measured":
        monkeypatch.setattr(run.policy.tuner, "measured", lambda *args: failing)
    else:
        monkeypatch.setattr(run.policy.tuner, at, failing)
    dense = model_attention(*x, HEADS)
    for sigma in (0.7, 0.5):
        assert all(torch.equal(out, dense) for out in forward(run, sigma, x, mask=mask))
    assert run.stopped is fallback.KERNEL_FAILED
    assert line(run).count("ValueError: Cell is empty") == len(run.stats.failures) == 1
    assert sparse_calls(run) == 0


def test_an_error_in_the_models_own_attention_is_the_models(run: Run) -> None:
    run.policy.sigma_start = 0.4
    with pytest.raises(ValueError, match="Cell is empty"):
        forward(run, 0.5, qkv(), own=failing)
    assert run.stopped is None


def test_an_error_before_sampling_is_met_by_the_first_call(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run.policy, "try_kernels", failing)
        run.try_kernels(lambda: (torch.device("cpu"), torch.float32))
    assert run.stopped is None
    forward(run, 0.5, qkv())
    assert sparse_calls(run) == LAYERS
