"""Never slower: what a run times, and that calls go the way that won. Times come from a clock of the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from dense_attention import model_attention
from runs import CPU, dense_calls, forward, line, plan_of, run_of, sparse_calls, tuned
from sparse_vdit.kernels.attention import sparse_attention
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal, Pattern
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.policies import kernel_tuner
from sparse_vdit.nodes.host.policies.kernel_tuner import TRIES, KernelTuner, forget_times
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session import execution
from sparse_vdit.nodes.host.session.call import DENSE, EXACT, INT8
from sparse_vdit.nodes.host.session.run import Run
from told_clock import ToldClock

GRID, LAYERS, HEADS = (3, 8, 11), 4, 2
LONG = (9, 8, 11)  # where NARROW, WIDE and WIDER are of densities .37, .53 and .69
NARROW, WIDE, WIDER = Diagonal(0), Diagonal(1), Diagonal(2)


@pytest.fixture(autouse=True)
def nothing_timed() -> Iterator[None]:
    forget_times()
    yield
    forget_times()


def start(clock: ToldClock, rows: list[Pattern] | None = None) -> Run:
    """A run whose warm-up ends at sigma .8."""
    return tuned(plan_of(rows or [NARROW] * LAYERS, grid=GRID), clock)


def qkv(dtype: torch.dtype = torch.float32, grid: tuple[int, int, int] = GRID) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    tokens = grid[0] * grid[1] * grid[2]
    return [torch.randn(1, tokens, HEADS * 64, generator=generator).to(dtype) for _ in range(3)]


def test_sparse_that_is_faster_runs_and_the_warm_up_timed_dense() -> None:
    clock = ToldClock(dense=10.0, exact=9.4)
    run = start(clock)
    forward(run, 0.9, qkv(), GRID)
    assert clock.timed == [DENSE] * TRIES
    forward(run, 0.5, qkv(), GRID)
    assert clock.timed[TRIES :] == [EXACT] * (TRIES + LAYERS - 1)  # the first layer several times
    assert (sparse_calls(run), dense_calls(run)) == (LAYERS, {fallback.WARM_UP: LAYERS})
    assert "; a call takes at density 0.75 9.40 ms sparse and 10.00 ms dense" in line(run)


def test_sparse_that_is_not_five_percent_faster_stays_dense_with_both_numbers() -> None:
    clock = ToldClock(dense=10.0, exact=9.6)
    run, x = start(clock), qkv()
    forward(run, 0.9, x, GRID)
    for sigma in (0.5, 0.4):
        assert all(torch.equal(out, model_attention(*x, HEADS)) for out in forward(run, sigma, x, GRID))
    assert clock.timed.count(EXACT) == TRIES, "what lost was tried again"
    assert dense_calls(run) == {fallback.WARM_UP: LAYERS, fallback.NOT_FASTER: 2 * LAYERS}
    assert "; a call takes at density 0.75 9.60 ms sparse and 10.00 ms dense" in line(run)
    assert f"Not faster here: {fallback.NOT_FASTER.sentence}. {fallback.NOT_FASTER.advice}" in line(run)


def test_without_a_warm_up_the_first_layer_runs_both_and_its_output_is_the_plan_s() -> None:
    clock = ToldClock(dense=10.0, exact=2.0)
    run, x = start(clock), qkv()
    outputs = forward(run, 0.5, x, GRID)
    assert clock.timed[: 2 * TRIES] == [DENSE] * TRIES + [EXACT] * TRIES
    assert clock.timed[2 * TRIES :] == [EXACT] * (LAYERS - 1)
    assert sparse_calls(run) == LAYERS
    assert all(torch.equal(out, outputs[0]) for out in outputs)
    assert not torch.equal(outputs[0], model_attention(*x, HEADS))


def test_layers_of_another_density_are_judged_for_themselves_and_denser_than_a_loser_never() -> None:
    class ByDensity(ToldClock):
        def shows(self, what: str) -> float:
            return 10.0 if what == DENSE else 12.0 if len(self.timed) < 2 * TRIES else 4.0

    run, x = start(ByDensity(), [WIDE, NARROW, WIDER, NARROW]), qkv(grid=LONG)
    forward(run, 0.9, x, LONG)
    forward(run, 0.5, x, LONG)
    assert [run.stats.forward.layers[layer]["sparse"] for layer in range(4)] == [0, 1, 0, 1]
    assert dense_calls(run) == {fallback.WARM_UP: LAYERS, fallback.NOT_FASTER: 2}
    told = "at density 0.35 4.00 ms sparse and 10.00 ms dense, at density 0.55 12.00 ms sparse and 10.00 ms dense"
    assert f"; a call takes {told}" in line(run)
    assert run.clock.timed.count(EXACT) == 2 * TRIES + 1, "what is denser than a loser was tried"


def test_times_that_come_late_decide_in_the_middle_of_a_run() -> None:
    clock = ToldClock(later=True, dense=5.0, exact=6.0)
    run, x = start(clock), qkv()
    forward(run, 0.9, x, GRID)
    forward(run, 0.5, x, GRID)
    assert sparse_calls(run) == LAYERS  # the plan runs until something speaks against it
    clock.hand_over()
    forward(run, 0.4, x, GRID)
    assert sparse_calls(run) == LAYERS
    assert dense_calls(run)[fallback.NOT_FASTER] == LAYERS


@pytest.mark.parametrize(("int8_ms", "budget", "winner"), [(3.0, 2e-2, INT8), (3.0, 1e-9, EXACT)])
def test_auto_takes_the_fastest_kernel_within_the_error_budget(
    monkeypatch: pytest.MonkeyPatch, int8_ms: float, budget: float, winner: str
) -> None:
    """Interpreted Triton kernels: the output is bit for bit that of the kernel that won."""
    monkeypatch.setattr(kernel_tuner, "ERROR_BUDGET", budget)
    run, x = start(ToldClock(dense=10.0, exact=5.0, int8=int8_ms), [NARROW]), qkv(torch.bfloat16)
    forward(run, 0.9, x, GRID)
    forward(run, 0.5, x, GRID)
    assert sparse_calls(run) == 1
    assert "backend triton" in line(run)
    lists, table = run.policy.bound.lists(TokenGrid(*GRID), CPU)
    q, k, v = (tensor.unflatten(-1, (HEADS, 64)) for tensor in x)
    truth = sparse_attention(q, k, v, lists, table[0][0], "triton", int8=winner == INT8).flatten(2)
    assert torch.equal(forward(run, 0.4, x, GRID)[0], truth)
    assert ("ms sparse in 8 bits and 10.00 ms dense" in line(run)) == (winner == INT8)


def test_a_kernel_that_fails_while_it_is_timed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = execution.run_call

    def run_call(call: object, backend: str) -> torch.Tensor:
        if call.int8:
            raise RuntimeError("no int8 here")
        return plain(call, backend)

    monkeypatch.setattr(execution, "run_call", run_call)
    run, x = start(ToldClock(dense=10.0, exact=5.0, int8=3.0), [NARROW] * 2), qkv(torch.bfloat16)
    forward(run, 0.9, x, GRID)
    forward(run, 0.5, x, GRID)
    assert sparse_calls(run) == 2
    assert run.stopped is None
    assert "the int8 kernel failed and was left out: no int8 here" in line(run)


def test_a_named_backend_is_obeyed_and_never_timed_against_dense() -> None:
    clock = ToldClock(dense=1.0, exact=100.0)
    policy = PlanPolicy(plan_of([NARROW] * 2, grid=GRID), 0.8, 0.0, "torch", KernelTuner())
    assert policy.tuner is None
    run = run_of(policy, clock)
    forward(run, 0.9, qkv(), GRID)
    forward(run, 0.5, qkv(), GRID)
    assert clock.timed == [EXACT] * 2
    assert sparse_calls(run) == 2


def test_the_reason_to_stay_dense_is_said_once_though_times_go_on_to_change() -> None:
    class Falling(ToldClock):
        def shows(self, what: str) -> float:
            return 10.0 - len(self.timed) / 10 if what == DENSE else 12.0

    run, x = start(Falling(later=True)), qkv()
    for sigma in (0.9, 0.5, 0.4, 0.3):
        forward(run, sigma, x, GRID)
        run.clock.hand_over()
    assert dense_calls(run)[fallback.NOT_FASTER] == 2 * LAYERS
    assert line(run).count("ms sparse and") == 1


def test_what_could_not_be_timed_at_first_is_timed_later_and_said() -> None:
    """As on a GPU with no event left, or while a CUDA graph is captured."""
    clock = ToldClock(dense=1.0, exact=50.0)
    clock.able = False
    run, x = start(clock), qkv()
    for sigma in (0.9, 0.5):
        forward(run, sigma, x, GRID)
    assert (sparse_calls(run), clock.timed) == (LAYERS, [])
    assert execution.NOT_TIMED in line(run)
    clock.able = True
    forward(run, 0.4, x, GRID)
    assert dense_calls(run)[fallback.NOT_FASTER] == LAYERS


def test_run_without_a_tuner_times_no_dense_call() -> None:
    clock = ToldClock(exact=1.0)
    run = run_of(PlanPolicy(plan_of([NARROW] * LAYERS, grid=GRID), 0.8, 0.0, "auto"), clock)
    forward(run, 0.9, qkv(), GRID)
    forward(run, 0.5, qkv(), GRID)
    assert clock.timed.count(EXACT) == LAYERS
    assert run.stats.seconds == pytest.approx(LAYERS / 1000)
    assert run.stats.milliseconds == {EXACT: LAYERS}


def test_a_second_run_in_the_process_knows_at_once() -> None:
    for _ in range(2):
        clock = ToldClock(dense=10.0, exact=2.0)
        run = start(clock)
        forward(run, 0.9, qkv(), GRID)
        forward(run, 0.5, qkv(), GRID)
        assert sparse_calls(run) == LAYERS
        assert clock.timed.count(DENSE) == TRIES  # in the warm-up, where that costs nothing
        assert "2.00 ms sparse and 10.00 ms dense" in line(run)
    assert clock.timed.count(EXACT) == LAYERS


def another_backend(func: object, *args: object, **kwargs: object) -> torch.Tensor:
    return model_attention(*args, **kwargs)


def test_another_dense_backend_is_timed_anew() -> None:
    forward(start(ToldClock(dense=10.0, exact=2.0)), 0.5, qkv(), GRID)
    policy = PlanPolicy(plan_of([NARROW] * LAYERS, grid=GRID), 0.8, 0.0, "auto", KernelTuner())
    other = run_of(policy, ToldClock(dense=1.0, exact=2.0), another_backend)
    forward(other, 0.5, qkv(), GRID)
    assert dense_calls(other) == {fallback.NOT_FASTER: LAYERS}


def test_masked_calls_are_timed_for_themselves() -> None:
    """The model's own attention is often another, slower one with a mask. Text is in the self-attention."""
    grid, clock = (*GRID, 5), ToldClock(dense=20.0, exact=12.0)
    run, mask = start(clock), torch.zeros(1, 1, 1, GRID[0] * GRID[1] * GRID[2] + 5)
    x = [torch.randn(1, mask.shape[-1], HEADS * 64) for _ in range(3)]
    for sigma, masked, milliseconds in ((0.9, mask, 20.0), (0.5, mask, 20.0), (0.45, None, 10.0)):
        clock.milliseconds[DENSE] = milliseconds
        forward(run, sigma, x, grid, mask=masked)
    assert sparse_calls(run) == LAYERS  # the masked ones
    assert dense_calls(run) == {fallback.WARM_UP: LAYERS, fallback.NOT_FASTER: LAYERS}
    assert clock.timed.count(DENSE) == 2 * TRIES, "warm-up of masked calls, and beside sparse ones without a mask"
