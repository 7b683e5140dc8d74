"""Never slower: what is timed, who wins, what is kept for the next run. Times come from a clock of the test."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sparse_vdit.kernels.attention import sparse_attention
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal, Pattern
from sparse_vdit.nodes.host import kernel_choice, race, reasons, speeds
from sparse_vdit.nodes.host.attention_op import attention_op, run_attention
from sparse_vdit.nodes.host.current import pop_run, push_run, timing_dense
from sparse_vdit.nodes.host.engine import Call
from sparse_vdit.nodes.host.plan_engine import PlanEngine
from sparse_vdit.nodes.host.race import DENSE, EXACT, INT8, Race, backend_name, density_class
from sparse_vdit.nodes.host.run import Run
from sparse_vdit.plans.plan import Band, Plan, Provenance, uniform_plan
from test_failures import model_attention

GRID, LAYERS, HEADS = (3, 8, 11), 4, 2
LAYOUT = (*GRID, 0, 0)
LONG = (9, 8, 11)  # where NARROW, WIDE and WIDER are of densities .37, .53 and .69
NARROW, WIDE, WIDER = Diagonal(0), Diagonal(1), Diagonal(2)


class TestClock:
    """Milliseconds by what is timed; `later` hands them over at `collect`, as a GPU does."""

    __test__ = False

    def __init__(self, later: bool = False, **milliseconds: float):
        self.milliseconds, self.later = milliseconds, later
        self.timed: list[str] = []
        self.waiting: list[tuple] = []

    def reserve(self, device: torch.device, calls: int) -> None:
        pass

    def ready(self, device: torch.device) -> bool:
        return True

    def start(self, device: torch.device, what: str, done: Callable[[float], None]) -> Callable[[], None]:
        self.timed.append(what)

        def stop() -> None:
            if self.later:
                self.waiting.append((done, self.milliseconds[what]))
            else:
                done(self.milliseconds[what])

        return stop

    def collect(self, wait: bool = False) -> None:
        if wait:
            self.hand_over()

    def hand_over(self) -> None:
        waiting, self.waiting = self.waiting, []
        for done, milliseconds in waiting:
            done(milliseconds)

    def free(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "_known", {})


def plan_of(rows: list[Pattern]) -> Plan:
    """One pattern for all heads of each layer."""
    patterns = tuple(dict.fromkeys(rows))
    heads = tuple((patterns.index(pattern),) * HEADS for pattern in rows)
    return Plan("wan", len(rows), HEADS, 64, GRID, patterns, (Band(1.0, 0.0, heads),), "measured", Provenance())


def start(clock: TestClock, rows: list[Pattern] | None = None, path: Path | None = None, **options: object) -> Run:
    """A run whose warm-up ends at sigma .8."""
    contest = Race(("model of the test",), path)
    engine = PlanEngine(plan_of(rows or [NARROW] * LAYERS), 0.8, 0.0, "auto", race=contest, **options)
    return Run(engine, model_attention, clock=clock)


def qkv(dtype: torch.dtype = torch.float32, grid: tuple[int, int, int] = GRID) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(1, math.prod(grid), HEADS * 64, generator=generator).to(dtype) for _ in range(3)]


def dense(x: list[torch.Tensor]) -> torch.Tensor:
    """The model's own attention as the override calls it."""
    with timing_dense():
        return model_attention(*x, HEADS)


def forward(run: Run, sigma: float, x: list[torch.Tensor], grid: tuple[int, int, int] = GRID) -> list[torch.Tensor]:
    push_run(run)
    try:
        run.reason = run.stopped or run.engine.reason(sigma)
        run.begin_forward(torch.device("cpu"), sigma)
        run.options = {}
        return [
            run_attention(*x, HEADS, layer, (*grid, 0, 0), False, False, lambda: dense(x))
            for layer in range(run.engine.plan.layers)
        ]
    finally:
        pop_run(run)


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


def test_the_second_run_knows_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "speeds" / "speeds.json"
    for exact, sparse in ((2.0, LAYERS), (2.0, LAYERS)):
        clock = TestClock(dense=10.0, exact=exact)
        run = start(clock, path=path)
        forward(run, 0.5, qkv())
        assert run.ledger.sparse == sparse
        monkeypatch.setattr(speeds, "_known", {})  # as after a restart
    assert clock.timed == [EXACT] * LAYERS
    kept = json.loads(path.read_text())["speeds"]
    (place, lanes), = kept.items()  # fmt: skip
    assert sorted(lanes.values()) == [2.0, 10.0]
    assert lanes[race.lane(DENSE, 75)] == 10.0
    assert "0+3x8x11+0 tokens" in place
    assert "float32" in place
    assert "model_attention" in place


def test_a_device_that_was_busy_in_one_run_spoils_no_other(tmp_path: Path) -> None:
    """Times of two runs are never compared: neither sparse then with dense now, nor the other way round."""
    path = tmp_path / "speeds.json"
    x = qkv(grid=LONG)
    for clock in (TestClock(dense=20.0, exact=12.0), TestClock(dense=10.0, exact=6.0)):  # busy, then idle
        run = start(clock, path=path)
        forward(run, 0.9, x, LONG)
        forward(run, 0.5, x, LONG)
        assert run.ledger.sparse == LAYERS
    denser = start(TestClock(dense=10.0, exact=12.0), [WIDE] * LAYERS, path)
    forward(denser, 0.5, x, LONG)
    assert denser.ledger.dense == {reasons.NOT_FASTER: LAYERS}
    again = start(TestClock(dense=1.0, exact=6.0), path=path)
    forward(again, 0.5, x, LONG)
    assert again.ledger.sparse == LAYERS, "what was found for one density was lost to another's"


def test_without_the_file_everything_is_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    forward(start(TestClock(dense=10.0, exact=12.0), path=path), 0.5, qkv())
    old = speeds.read_speeds(path)
    speeds.keep_speeds(path, "another place", {"dense 5%": 1.0})
    path.unlink()
    run = start(TestClock(dense=10.0, exact=2.0), path=path)
    forward(run, 0.5, qkv())
    assert run.ledger.sparse == LAYERS
    assert speeds.read_speeds(path).keys() == old.keys(), "what was deleted was written back"
    assert speeds.read_speeds(path) != old


def test_what_another_comfyui_wrote_meanwhile_is_known_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    speeds.keep_speeds(path, "ours", {"dense 5%": 1.0})
    places = {"ours": {"dense 5%": 1.0}, "theirs": {"dense 5%": 2.0}}
    path.write_text(json.dumps({"format": "sparse-vdit-speeds", "version": 1, "speeds": places}))
    assert speeds.known_speeds(path) == places
    speeds.keep_speeds(path, "ours too", {"dense 5%": 3.0})
    assert list(speeds.read_speeds(path)) == ["ours", "theirs", "ours too"]


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


def test_masked_calls_are_another_place() -> None:
    """The model's own attention is often another, slower one with a mask."""
    layout, tokens = (*GRID, 0, 5), GRID[0] * GRID[1] * GRID[2] + 5
    x = [torch.randn(1, tokens, HEADS, 64) for _ in range(3)]
    mask = torch.zeros(1, 1, 1, tokens)
    clock = TestClock(dense=20.0, exact=12.0)
    run = start(clock)
    for sigma, masked, dense_ms in ((0.9, mask, 20.0), (0.5, mask, 20.0), (0.45, None, 10.0)):
        clock.milliseconds[DENSE] = dense_ms
        run.reason = run.engine.reason(sigma)
        run.begin_forward(torch.device("cpu"), sigma)
        for layer in range(LAYERS):
            run.attend(Call(layer, layout, *x, masked, again=lambda: None))
            with run.timing_dense():
                pass
    assert run.ledger.sparse == LAYERS  # the masked ones
    assert run.ledger.dense == {reasons.WARM_UP: LAYERS, reasons.NOT_FASTER: LAYERS}
    assert clock.timed.count(DENSE) == 2 * race.TRIES, "warm-up of masked calls, and beside sparse ones without a mask"


def test_other_circumstances_are_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    forward(start(TestClock(dense=10.0, exact=2.0), path=path), 0.5, qkv())
    other = start(TestClock(dense=1.0, exact=2.0), path=path)
    other.chained = lambda func, *args, **kwargs: func(*args, **kwargs)  # a faster dense backend
    forward(other, 0.5, qkv())
    assert other.ledger.dense == {reasons.NOT_FASTER: LAYERS}
    assert len(speeds.read_speeds(path)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "nonsense", "[" * 100_000, '{"format": "sparse-vdit-speeds", "version": 2, "speeds": {}}',
        '{"format": "sparse-vdit-speeds", "version": 1, "speeds": [1]}',
        '{"format": "sparse-vdit-speeds", "version": 1, "speeds": {"a": 3, "b": []}}', "x" * (2 << 20),
    ],
)  # fmt: skip
def test_a_damaged_file_is_measured_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "speeds.json"
    path.write_text(text)
    assert speeds.read_speeds(path) == {}
    run = start(TestClock(dense=10.0, exact=2.0), path=path)
    forward(run, 0.5, qkv())
    assert run.ledger.sparse == LAYERS
    assert len(speeds.read_speeds(path)) == 1


def test_implausible_numbers_are_dropped_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    lanes = '{"dense": 3.5, "a": -1, "b": NaN, "c": Infinity, "d": "4", "e": true, "f": null, "g": 1e300, "h": [1]}'
    path.write_text(
        f'{{"format": "sparse-vdit-speeds", "version": 1, "speeds": {{"p": {lanes}, "{"x" * 600}": {{}}}}}}'
    )
    assert speeds.read_speeds(path) == {"p": {"dense": 3.5}}


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = start(TestClock(dense=10.0, exact=2.0), path=tmp_path / "file" / "speeds.json")
    forward(run, 0.5, qkv())
    assert run.ledger.sparse == LAYERS


def test_the_file_keeps_the_newest_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "MOST_PLACES", 3)
    path = tmp_path / "speeds.json"
    for number in range(5):
        speeds.keep_speeds(path, f"place {number}", {DENSE: 1.0})
    assert list(speeds.read_speeds(path)) == ["place 2", "place 3", "place 4"]


def test_dense_backends_are_told_apart_by_what_they_wrap() -> None:
    def wrap(inner: Callable) -> Callable:
        def override(func: Callable, *args: object) -> object:
            return inner(*args)

        return override

    def one() -> None:
        pass

    def two() -> None:
        pass

    assert backend_name(one, None).startswith(one.__qualname__)
    different = [
        one, wrap(one), wrap(two), wrap(wrap(wrap(one))), wrap(wrap(wrap(two))),
        functools.partial(two), functools.partial(two, "fp8"), functools.partial(two, scores="int4"),
    ]  # fmt: skip
    names = [backend_name(one, chained) for chained in different]
    assert len({race.facts({"dense": name}) for name in names}) == len(names)
    assert all(len(fact) <= race.MOST_FACT for name in names for fact in race.facts({"dense": name}))
    assert names == [backend_name(one, chained) for chained in different]


def test_functions_of_one_name_and_a_closure_that_was_emptied_are_no_trouble() -> None:
    def make(fast: bool, filled: bool = False) -> Callable:
        if fast:

            def attention() -> int:
                return 1
        else:

            def attention() -> int:
                return 2

        def override(func: Callable, *args: object, **kwargs: object) -> object:
            return func(*args, **kwargs) if args else (attention, never)

        if filled:
            never = 1  # in this test never, which leaves the cell empty
        return override

    assert backend_name(None, make(True)) != backend_name(None, make(False))
    run = start(TestClock(dense=10.0, exact=2.0))
    run.chained = make(True)
    forward(run, 0.9, qkv())
    assert run.ledger.dense == {reasons.WARM_UP: LAYERS}


def test_density_classes() -> None:
    assert [density_class(density) for density in (0.0, 0.02, 0.03, 0.31, 0.99)] == [0, 0, 5, 30, 100]


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
            outputs = [attention_op(*x, HEADS, layer, LAYOUT, False, False, "", []) for layer in range(LAYERS)]
    finally:
        pop_run(run)
    assert clock.timed[: race.TRIES + 1] == [DENSE] * race.TRIES + [EXACT]
    assert run.ledger.sparse == sparse
    assert torch.equal(outputs[0], model_attention(*x, HEADS)) == (sparse == 0)
