"""Runs on cards whose kernels break, are wrong, or find no memory: the video is right, and the report says what was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import runs
import torch
from dense_attention import model_attention
from runs import CPU, GRID, HEADS, TOKENS, line, qkv, run_of, sparse_calls
from sparse_vdit.kernels import attention
from sparse_vdit.kernels.attention import forget_failures
from sparse_vdit.kernels.backends import torch_backend
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.policies.kernel_tuner import KernelTuner, forget_times
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session import execution
from sparse_vdit.nodes.host.session.run import Run
from sparse_vdit.plans.plan.binding import BoundPlan
from sparse_vdit.plans.plan.plan import uniform_plan
from test_trust import broken, fake_backend, out_of_memory, spoiled
from told_clock import ToldClock

LAYERS = 3
PLAN = uniform_plan("wan", LAYERS, HEADS, 128, GRID, Diagonal(0))


@pytest.fixture(autouse=True)
def trusting() -> Iterator[None]:
    """Nothing is known of any backend, before and after."""
    forget_failures()
    forget_times()
    yield
    forget_failures()


def wrong_for_this_model(call: AttentionCall) -> torch.Tensor:
    """Right in the self-test, wrong on the model's own size."""
    out = torch_backend.attention(call)
    return out * 1.2 if call.q.shape[1] == TOKENS else out


@dataclass
class Forward:
    """A run of one forward in bf16, its outputs, and what dense attention and sparse attention by torch give."""

    run: Run
    out: list[torch.Tensor]
    dense: torch.Tensor
    sparse: torch.Tensor

    def is_dense(self) -> bool:
        return all(torch.equal(one, self.dense) for one in self.out)

    def is_sparse(self) -> bool:
        return all(torch.equal(one, self.sparse) for one in self.out)


def forward(
    tuner: KernelTuner | None = None, x: list[torch.Tensor] | None = None, own: Callable = model_attention
) -> Forward:
    """`tuner` finds sparse attention faster; `own` is the model's own attention."""
    run = run_of(PlanPolicy(PLAN, 1.0, 0.0, "auto", tuner), ToldClock(dense=9.0, exact=2.0, int8=3.0))
    x = [part.to(torch.bfloat16) for part in x or qkv(1)]
    out = runs.forward(run, 0.5, x, own=own)
    heads = [part.unflatten(2, (HEADS, 128)) for part in x]
    lists, table = BoundPlan(PLAN).lists(TokenGrid(*GRID), CPU)
    sparse = torch_backend.attention(AttentionCall(*heads, lists, table[0][0])).flatten(2)
    return Forward(run, out, model_attention(*x, HEADS), sparse)


def use(monkeypatch: pytest.MonkeyPatch, **found: object) -> None:
    """These backends before torch's."""
    monkeypatch.setattr(attention, "BACKENDS", {**found, "torch": torch_backend})
    monkeypatch.setattr(execution, "BACKENDS", attention.BACKENDS)


@pytest.mark.parametrize(
    ("triton", "test", "message"),
    [
        (broken, False, "backend compiled (triton: it failed: fatal error: Python.h: No such file)"),
        (broken, True, "compiled (triton: its self-test failed: fatal error: Python.h: No such file)"),
        (spoiled, True, "the output is wrong, relative error 1.0e-01, at most 1e-02 is right)"),
    ],
)
def test_the_shipped_kernels_take_over(monkeypatch, triton, test, message) -> None:
    use(monkeypatch, triton=fake_backend(triton, test=test), compiled=fake_backend())
    found = forward()
    assert found.is_sparse()
    assert sparse_calls(found.run) == LAYERS and message in line(found.run), line(found.run)


def test_a_run_without_kernels_is_dense(monkeypatch) -> None:
    use(monkeypatch, triton=fake_backend(broken), compiled=fake_backend(spoiled))
    found = forward()
    assert found.is_dense()
    report = line(found.run)
    assert "no fast kernels here: triton: its self-test failed" in report and "compiled: its self-test" in report


def test_a_lack_of_memory_makes_this_run_dense_and_the_next_one_sparse(monkeypatch) -> None:
    module = fake_backend(out_of_memory, test=False)
    use(monkeypatch, triton=module)
    found = forward()
    assert found.is_dense() and "memory ran out in sparse attention" in line(found.run)
    module.attention = torch_backend.attention
    found = forward()
    assert found.is_sparse() and "backend triton" in line(found.run)


WRONG = "its output is wrong on the model's own data: relative error 2.0e-01, limit 1e-02"


def test_what_is_wrong_on_the_models_own_data_is_left_out(monkeypatch) -> None:
    use(monkeypatch, triton=fake_backend(wrong_for_this_model), compiled=fake_backend())
    found = forward(KernelTuner())
    assert found.is_sparse()
    assert f"backend compiled (triton: {WRONG})" in line(found.run)


def test_every_backend_is_checked_and_none_that_is_wrong_is_used(monkeypatch) -> None:
    use(monkeypatch, triton=fake_backend(wrong_for_this_model), compiled=fake_backend(wrong_for_this_model))
    found = forward(KernelTuner())
    assert found.is_dense()
    assert f"triton: {WRONG}; compiled: {WRONG}" in line(found.run)


def test_what_earlier_runs_timed_is_checked_all_the_same(monkeypatch) -> None:
    """The times are known, and not whether the kernel is right on this run's data."""
    use(monkeypatch, triton=fake_backend())
    assert forward(KernelTuner()).is_sparse()
    forget_failures()
    use(monkeypatch, triton=fake_backend(wrong_for_this_model))
    found = forward(KernelTuner())
    assert found.is_dense() and WRONG in line(found.run)


def test_8_bits_that_are_wrong_are_left_out_and_say_so(monkeypatch) -> None:
    def wrong_in_8_bits(call: AttentionCall) -> torch.Tensor:
        return wrong_for_this_model(call) if call.int8 else torch_backend.attention(call)

    use(monkeypatch, triton=fake_backend(wrong_in_8_bits))
    found = forward(KernelTuner())
    assert found.is_sparse()
    assert f"the int8 kernel failed and was left out: {WRONG.partition(', limit')[0]}" in line(found.run)


@pytest.mark.parametrize("which", range(3))
def test_numbers_of_the_model_that_are_not_finite_bar_no_kernel(monkeypatch, which) -> None:
    use(monkeypatch, triton=fake_backend())
    x = qkv(1)
    x[which][:] = torch.nan
    forward(KernelTuner(), x)
    assert attention._failures == {}
    assert forward(KernelTuner()).is_sparse()


def test_an_error_of_the_models_own_attention_bars_no_kernel(monkeypatch) -> None:
    asked = []

    def fails(*args: object, **kwargs: object) -> None:
        asked.append(1)
        raise RuntimeError("another node: buffers are used up")

    use(monkeypatch, triton=fake_backend())
    found = forward(KernelTuner(), own=fails)
    assert asked and found.is_sparse() and attention._failures == {}
    assert execution.NOT_TIMED in line(found.run)


def test_kernels_are_tested_before_the_first_call(monkeypatch) -> None:
    asked = []

    def attend(call: AttentionCall) -> torch.Tensor:
        asked.append(call.q.shape[1])
        return torch_backend.attention(call)

    use(monkeypatch, triton=fake_backend(attend))
    run = run_of(PlanPolicy(PLAN, 1.0, 0.0, "auto", KernelTuner()))
    run.try_kernels(lambda: (CPU, torch.bfloat16))
    assert asked == [1584, 1584]  # exact and in 8 bits
    assert forward().is_sparse() and asked[2:] == [TOKENS] * LAYERS
