"""Never slower: what is timed and who wins. Times come from a clock of the test."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dense_attention import model_attention
from races import GRID, HEADS, LAYERS, LAYOUT, LONG, NARROW, WIDE, WIDER, TestClock, forward, plan_of, qkv, start
from sparse_vdit.kernels.attention import sparse_attention
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.nodes.host.attention.attention_op import attention_op
from sparse_vdit.nodes.host.reports import reasons
from sparse_vdit.nodes.host.runs.current import pop_run, push_run
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.nodes.host.speed import kernel_choice, race, speeds
from sparse_vdit.nodes.host.speed.race import DENSE, EXACT, INT8, Race
from sparse_vdit.plans.plan.plan import uniform_plan


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "_known", {})


def test_sparse_that_is_faster_runs_and_the_warm_up_timed_dense() -> None:
    clock = TestClock(dense=10.0, exact=9.4)
    run = start(clock)
    forward(run, 0.9, qkv())
    assert clock.timed == [DENSE] * race.TRIES
    forward(run, 0.5, qkv())
    assert clock.timed[race.TRIES :] == [EXACT] * (race.TRIES + LAYERS - 1)  # the first layer several times
    assert (run.ledger.sparse, run.ledger.dense) == (LAYERS, {reasons.WARM_UP: LAYERS})
    assert "; a call takes at density 0.75 9.40 ms sparse and 10.00 ms dense" in run.report()


def test_sparse_that_is_not_five_percent_faster_stays_dense_with_both_numbers() -> None:
    clock = TestClock(dense=10.0, exact=9.6)
    run, x = start(clock), qkv()
    forward(run, 0.9, x)
    for sigma in (0.5, 0.4):
        assert all(torch.equal(out, model_attention(*x, HEADS)) for out in forward(run, sigma, x))
    assert clock.timed.count(EXACT) == race.TRIES, "what lost was tried again"
    assert run.ledger.dense == {reasons.WARM_UP: LAYERS, reasons.NOT_FASTER: 2 * LAYERS}
    assert "; a call takes at density 0.75 9.60 ms sparse and 10.00 ms dense" in run.report()
    assert f"nothing ran sparse: {reasons.MENDS[reasons.NOT_FASTER]}" in run.report()


def test_without_a_warm_up_the_first_layer_runs_both_and_its_output_is_the_plan_s() -> None:
    clock = TestClock(dense=10.0, exact=2.0)
    run, x = start(clock), qkv()
    outputs = forward(run, 0.5, x)
    assert clock.timed[: 2 * race.TRIES] == [DENSE] * race.TRIES + [EXACT] * race.TRIES
    assert clock.timed[2 * race.TRIES :] == [EXACT] * (LAYERS - 1)
    assert run.ledger.sparse == LAYERS
    assert all(torch.equal(out, outputs[0]) for out in outputs)
    assert not torch.equal(outputs[0], model_attention(*x, HEADS))


def test_layers_of_another_density_are_judged_for_themselves_and_denser_than_a_loser_never() -> None:
    class ByDensity(TestClock):
        def start(self, device: torch.device, what: str, done: Callable[[float], None]) -> Callable[[], None]:
            self.milliseconds["exact"] = 12.0 if len(self.timed) < 2 * race.TRIES else 4.0
            return super().start(device, what, done)

    run, x = start(ByDensity(dense=10.0), [WIDE, NARROW, WIDER, NARROW]), qkv(grid=LONG)
    forward(run, 0.9, x, LONG)
    forward(run, 0.5, x, LONG)
    assert [run.ledger.layers[layer]["sparse"] for layer in range(4)] == [0, 1, 0, 1]
    assert run.ledger.dense == {reasons.WARM_UP: LAYERS, reasons.NOT_FASTER: 2}
    told = "at density 0.35 4.00 ms sparse and 10.00 ms dense, at density 0.55 12.00 ms sparse and 10.00 ms dense"
    assert f"; a call takes {told}" in run.report()
    assert run.clock.timed.count(EXACT) == 2 * race.TRIES + 1, "what is denser than a loser was tried"


def test_times_that_come_late_decide_in_the_middle_of_a_run() -> None:
    clock = TestClock(later=True, dense=5.0, exact=6.0)
    run, x = start(clock), qkv()
    forward(run, 0.9, x)
    forward(run, 0.5, x)
    assert run.ledger.sparse == LAYERS  # the plan runs until something speaks against it
    clock.hand_over()
    forward(run, 0.4, x)
    assert run.ledger.sparse == LAYERS
    assert run.ledger.dense[reasons.NOT_FASTER] == LAYERS


@pytest.mark.parametrize(("int8_ms", "budget", "winner"), [(3.0, 2e-2, INT8), (3.0, 1e-9, EXACT), (6.0, 2e-2, EXACT)])
def test_auto_takes_the_fastest_kernel_within_the_error_budget(
    monkeypatch: pytest.MonkeyPatch, int8_ms: float, budget: float, winner: str
) -> None:
    """Interpreted Triton kernels: the output is bit for bit that of the kernel that won."""
    monkeypatch.setattr(race, "ERROR_BUDGET", budget)
    run, x = start(TestClock(dense=10.0, exact=5.0, int8=int8_ms), [NARROW] * 2), qkv(torch.bfloat16)
    forward(run, 0.9, x)
    forward(run, 0.5, x)
    assert run.ledger.sparse == 2
    assert "backend triton" in run.report()
    lists, table = run.engine.bound.lists(TokenGrid(*LAYOUT), "cpu")
    q, k, v = (tensor.unflatten(-1, (HEADS, 64)) for tensor in x)
    truth = sparse_attention(q, k, v, lists, table[0][0], "triton", int8=winner == INT8).flatten(2)
    assert torch.equal(forward(run, 0.4, x)[1], truth)
    assert ("ms sparse in 8 bits and 10.00 ms dense" in run.report()) == (winner == INT8)


def test_a_kernel_that_fails_in_the_race_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = kernel_choice.run_call

    def run_call(call: object, backend: str) -> torch.Tensor:
        if call.int8:
            raise RuntimeError("no int8 here")
        return plain(call, backend)

    monkeypatch.setattr(kernel_choice, "run_call", run_call)
    run, x = start(TestClock(dense=10.0, exact=5.0), [NARROW] * 2), qkv(torch.bfloat16)
    forward(run, 0.9, x)
    forward(run, 0.5, x)
    assert run.ledger.sparse == 2
    assert run.stopped is None
    assert "the int8 kernel failed and was left out: no int8 here" in run.report()


def test_a_named_backend_is_obeyed_and_never_timed_against_dense() -> None:
    clock = TestClock(dense=1.0, exact=100.0)
    contest = Race(("model of the test",))
    run = Run(PlanEngine(plan_of([NARROW] * 2), 0.8, 0.0, "torch", race=contest), model_attention, clock=clock)
    forward(run, 0.9, qkv())
    forward(run, 0.5, qkv())
    assert clock.timed == [EXACT] * 2
    assert run.ledger.sparse == 2


def test_the_reason_to_stay_dense_is_said_once_though_times_go_on_to_change() -> None:
    class Falling(TestClock):
        def start(self, device: torch.device, what: str, done: Callable[[float], None]) -> Callable[[], None]:
            self.milliseconds = {"dense": 10.0 - len(self.timed) / 10, "exact": 12.0}
            return super().start(device, what, done)

    run, x = start(Falling(later=True)), qkv()
    push_run(run)
    for sigma in (0.9, 0.5, 0.4, 0.3):
        forward(run, sigma, x)
        run.clock.hand_over()
    pop_run(run)
    assert run.ledger.dense[reasons.NOT_FASTER] == 2 * LAYERS
    assert run.report().count("ms sparse and") == 1


@pytest.mark.parametrize("slow", [DENSE, EXACT])
def test_the_first_call_may_compile_and_does_not_count(slow: str) -> None:
    class Compiling(TestClock):
        def start(self, device: torch.device, what: str, done: Callable[[float], None]) -> Callable[[], None]:
            times = {DENSE: (1.0 if slow == EXACT else 10.0, 10.0), EXACT: (90.0 if slow == EXACT else 11.0, 4.0)}
            self.milliseconds[what] = times[what][what in self.timed]
            return super().start(device, what, done)

    run = start(Compiling())
    forward(run, 0.5, qkv())
    assert run.clock.timed.count(DENSE) == race.TRIES, "one of the two had more tries to be fast in"
    assert run.ledger.sparse == LAYERS


def test_what_could_not_be_timed_at_first_is_timed_later_and_said() -> None:
    """As on a GPU with no event left, or while a CUDA graph is captured."""

    class Unready(TestClock):
        able = False

        def ready(self, device: torch.device) -> bool:
            return self.able

        def start(self, device: torch.device, what: str, done: Callable[[float], None]) -> Callable[[], None]:
            return super().start(device, what, done) if self.able else lambda: None

    clock = Unready(dense=1.0, exact=50.0)
    run, x = start(clock), qkv()
    for sigma in (0.9, 0.5):
        forward(run, sigma, x)
    assert (run.ledger.sparse, clock.timed) == (LAYERS, [])
    assert kernel_choice.NOT_TIMED in run.report()
    clock.able = True
    forward(run, 0.4, x)
    assert run.ledger.dense[reasons.NOT_FASTER] == LAYERS


def test_run_without_a_race_times_no_dense_call() -> None:
    clock = TestClock(exact=1.0)
    plan = uniform_plan("wan", LAYERS, HEADS, 64, GRID, NARROW)
    run = Run(PlanEngine(plan, 0.8, 0.0, "auto"), model_attention, clock=clock)
    forward(run, 0.9, qkv())
    forward(run, 0.5, qkv())
    assert clock.timed == [EXACT] * LAYERS
    assert run.ledger.seconds == pytest.approx(LAYERS / 1000)


@pytest.mark.parametrize(("exact", "sparse"), [(2.0, LAYERS), (11.0, 0)])
def test_compiled_code_follows_the_verdict_when_it_runs(exact: float, sparse: int) -> None:
    """The operator of compiled models decides at each call, and times the model's own attention too."""
    clock = TestClock(dense=10.0, exact=exact)
    run, x = start(clock), qkv()
    push_run(run)
    try:
        for sigma in (0.9, 0.5):
            run.reason = run.engine.reason(sigma)
            run.begin_forward(torch.device("cpu"), sigma)
            numbers = torch.arange(LAYERS)
            outputs = [attention_op(*x, HEADS, number, LAYOUT, False, False, "", []) for number in numbers]
    finally:
        pop_run(run)
    assert clock.timed[: race.TRIES + 1] == [DENSE] * race.TRIES + [EXACT]
    assert run.ledger.sparse == sparse
    assert torch.equal(outputs[0], model_attention(*x, HEADS)) == (sparse == 0)
