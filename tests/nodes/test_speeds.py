"""Measured speeds from run to run: what is kept, what a time hangs on, and files that are none of ours."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from races import GRID, HEADS, LAYERS, LONG, WIDE, TestClock, forward, qkv, start
from sparse_vdit.nodes.host.reports import reasons
from sparse_vdit.nodes.host.runs.engine import Call
from sparse_vdit.nodes.host.speed import race, speeds
from sparse_vdit.nodes.host.speed.race import DENSE, EXACT, backend_name, density_class


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "_known", {})


def test_the_second_run_knows_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "speeds" / "speeds.json"
    for earlier in (False, True):
        clock = TestClock(dense=10.0, exact=2.0)
        run = start(clock, path=path)
        forward(run, 0.5, qkv())
        assert run.ledger.sparse == LAYERS
        assert (race.KEPT in run.report()) == earlier
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
