"""Which way is the fastest, by times and errors that the tuner is told: it reads no clock itself."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from dense_attention import model_attention
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.nodes.host.policies import kernel_tuner
from sparse_vdit.nodes.host.policies.kernel_tuner import (
    CLASS_WIDTH,
    ERROR_BUDGET,
    MAX_FOUND,
    TRIES,
    KernelTuner,
    density_class,
    forget_times,
)
from sparse_vdit.nodes.host.session.call import DENSE, EXACT, INT8, KERNELS

GRID = TokenGrid(3, 8, 11)
Q = torch.zeros(1, GRID.tokens, 2, 64)
OWN = (model_attention, None)


@pytest.fixture(autouse=True)
def nothing_timed() -> Iterator[None]:
    forget_times()
    yield
    forget_times()


def told(tuner: KernelTuner, place: tuple, lane: str, *milliseconds: float) -> int:
    """Time calls as long as the tuner wants it; how many those were."""
    count = 0
    times = milliseconds if len(milliseconds) > 1 else milliseconds * (TRIES + 2)
    while count < len(times) and tuner.begin_timing(place, lane):
        tuner.measured(place, lane)(times[count])
        count += 1
    return count


def tuned(dense: float, density: float = 0.3, error: float = ERROR_BUDGET / 2, **kernels: float) -> tuple:
    """A tuner that has timed all, its place, and what it decides."""
    tuner = KernelTuner()
    place = tuner.place(GRID, Q, False, OWN)
    told(tuner, place, DENSE, dense)
    for name, milliseconds in kernels.items():
        lane = tuner.lane(name, density, "triton")
        told(tuner, place, lane, milliseconds)
        if name != EXACT:
            tuner.compared(place, lane, torch.tensor(error))
    return tuner, place, tuner.verdict(place, density, tuple(kernels), "triton")


@pytest.mark.parametrize(
    ("exact", "int8", "error", "winner"),
    [
        (9.4, 9.4, 0.0, EXACT),
        (9.6, 9.6, 0.0, DENSE),  # not five percent faster
        (5.0, 3.0, ERROR_BUDGET, INT8),
        (5.0, 3.0, 1.01 * ERROR_BUDGET, EXACT),
        (5.0, 3.0, float("nan"), EXACT),
        (5.0, 6.0, 0.0, EXACT),
        (12.0, 3.0, 1.01 * ERROR_BUDGET, DENSE),
    ],
)
def test_the_fastest_that_is_exact_enough_wins(exact: float, int8: float, error: float, winner: str) -> None:
    tuner, place, verdict = tuned(10.0, error=error, exact=exact, int8=int8)
    assert verdict == winner
    assert tuner.verdict(place, 0.3, KERNELS, "triton") == winner


def test_nothing_is_decided_before_all_was_timed() -> None:
    tuner = KernelTuner()
    place = tuner.place(GRID, Q, False, OWN)
    lanes = [DENSE, tuner.lane(EXACT, 0.3, "triton"), tuner.lane(INT8, 0.3, "triton")]
    assert len(set(lanes)) == 3
    for lane in lanes:
        assert tuner.verdict(place, 0.3, KERNELS, "triton") is None
        assert told(tuner, place, lane, 5.0) == TRIES
    tuner.compared(place, lanes[2], torch.tensor(0.0))
    assert tuner.verdict(place, 0.3, KERNELS, "triton") is not None
    assert not any(tuner.begin_timing(place, lane) for lane in lanes)


def test_calls_that_were_begun_count_as_wanted_though_their_times_are_late() -> None:
    tuner = KernelTuner()
    place = tuner.place(GRID, Q, False, OWN)
    assert [tuner.begin_timing(place, DENSE) for _ in range(TRIES + 1)] == [True] * TRIES + [False]
    assert KernelTuner().begin_timing(place, DENSE)  # another run, whose times may come earlier


@pytest.mark.parametrize("slow", [DENSE, EXACT])
def test_the_first_call_may_compile_and_does_not_count(slow: str) -> None:
    tuner = KernelTuner()
    place = tuner.place(GRID, Q, False, OWN)
    for name, milliseconds in ((DENSE, 10.0), (EXACT, 9.0)):
        lane = DENSE if name == DENSE else tuner.lane(EXACT, 0.3, "triton")
        first = 90.0 if name == slow else 1.0
        told(tuner, place, lane, first, *[milliseconds] * (TRIES - 1))
    assert tuner.verdict(place, 0.3, (EXACT,), "triton") == EXACT
    assert tuner.summary() == "a call takes at density 0.30 9.00 ms sparse and 10.00 ms dense"


def test_a_kernel_that_failed_is_left_out() -> None:
    tuner = KernelTuner()
    place = tuner.place(GRID, Q, False, OWN)
    told(tuner, place, DENSE, 10.0)
    told(tuner, place, tuner.lane(EXACT, 0.3, "triton"), 5.0)
    assert tuner.verdict(place, 0.3, KERNELS, "triton") is None
    tuner.drop(INT8, "compiled")
    assert tuner.verdict(place, 0.3, KERNELS, "triton") is None
    tuner.drop(INT8, "triton")
    assert tuner.verdict(place, 0.3, KERNELS, "triton") == EXACT


def test_what_is_denser_than_a_loser_is_not_tried() -> None:
    tuner, place, verdict = tuned(10.0, density=0.5, exact=12.0)
    assert verdict == DENSE
    for density, by, decided in ((0.7, "triton", DENSE), (0.3, "triton", None), (0.7, "compiled", None)):
        assert tuner.verdict(place, density, (EXACT,), by) == decided
    assert tuner.summary() == "a call takes at density 0.50 12.00 ms sparse and 10.00 ms dense"


def test_runs_of_one_process_share_times() -> None:
    """The second run knows at once; until they are forgotten. Another model does not."""
    _, place, first = tuned(10.0, exact=4.0)
    second = KernelTuner()
    assert second.place(GRID, Q, False, OWN) == place
    assert second.verdict(place, 0.3, (EXACT,), "triton") == first == EXACT
    forget_times()
    assert KernelTuner().verdict(place, 0.3, (EXACT,), "triton") is None


def test_what_is_compared_was_timed_in_one_run() -> None:
    """A device may have been busy while another run timed its own attention."""
    busy, later = KernelTuner(), KernelTuner()
    place = busy.place(GRID, Q, False, OWN)
    assert told(busy, place, DENSE, 50.0) == TRIES
    assert told(later, place, later.lane(EXACT, 0.3, "triton"), 20.0) == TRIES
    assert later.verdict(place, 0.3, (EXACT,), "triton") is None
    assert told(later, place, DENSE, 10.0) == TRIES
    assert later.verdict(place, 0.3, (EXACT,), "triton") == DENSE


def test_a_verdict_stays_as_it_is_within_a_run() -> None:
    tuner, place, verdict = tuned(10.0, exact=4.0)
    forget_times()
    assert tuner.verdict(place, 0.3, (EXACT,), "triton") == verdict


def test_a_speedup_is_of_all_calls_that_went_by_a_verdict() -> None:
    tuner, place, _ = tuned(10.0, exact=4.0)
    assert tuner.speedup(9) is None
    for _ in range(3):
        tuner.count(place, 0.3, "triton")
    assert tuner.speedup(3) == pytest.approx(2.5)
    assert tuner.speedup(6) == pytest.approx(60 / 42)  # three more ran dense
    lane = tuner.lane(EXACT, 0.8, "triton")
    told(tuner, place, lane, 12.0)
    assert tuner.verdict(place, 0.8, (EXACT,), "triton") == DENSE
    tuner.count(place, 0.8, "triton")  # as fast as dense
    assert tuner.speedup(4) == pytest.approx(40 / 22)


def test_calls_by_a_kernel_that_was_dropped_later_have_no_times() -> None:
    tuner, place, verdict = tuned(10.0, exact=4.0)
    tuner.count(place, 0.3, "triton")
    tuner.drop(verdict, "triton")
    assert tuner.speedup(1) is None


def test_times_are_told_of_the_sparsest_the_densest_and_the_densest_that_won() -> None:
    assert KernelTuner().summary() == ""
    tuner, place, _ = tuned(10.0, density=0.1, exact=1.0)
    for density, milliseconds in ((0.3, 4.0), (0.5, 6.0), (0.9, 20.0)):
        told(tuner, place, tuner.lane(EXACT, density, "triton"), milliseconds)
        tuner.verdict(place, density, (EXACT,), "triton")
    said = tuner.summary()
    assert [f"density 0.{n}0" in said for n in (1, 3, 5, 9)] == [True, False, True, True]
    forget_times()
    in_8_bits, *_ = tuned(10.0, density=0.2, exact=5.0, int8=2.0)
    assert "density 0.20 2.00 ms sparse in 8 bits and 10.00 ms dense" in in_8_bits.summary()


def test_details_are_of_the_places_of_the_run() -> None:
    tuner, _, _ = tuned(10.0, exact=4.0, int8=3.0)
    ((name, found),) = tuner.detail().items()
    assert name == "3x8x11 tokens, 1 x 2 heads x 64, float32, cpu"
    assert found[DENSE] == 10.0
    assert found[tuner.lane(INT8, 0.3, "triton")] == 3.0
    assert found[f"{tuner.lane(INT8, 0.3, 'triton')} error"] == pytest.approx(ERROR_BUDGET / 2)
    assert KernelTuner().detail() == {}


def wrap(inner: Callable) -> Callable:
    def override(func: Callable, *args: object) -> object:
        return inner(*args)

    return override


def test_what_a_time_hangs_on_is_another_place() -> None:
    tuner, other, third = KernelTuner(), wrap(model_attention), wrap(model_attention)
    partial = functools.partial(model_attention)
    places = [
        tuner.place(GRID, Q, False, OWN),
        tuner.place(GRID, Q, True, OWN),  # the model's own attention is often another, slower one with a mask
        tuner.place(TokenGrid(3, 11, 8), Q, False, OWN),
        tuner.place(GRID, Q.expand(2, -1, -1, -1), False, OWN),
        tuner.place(GRID, Q.half(), False, OWN),
        tuner.place(GRID, Q.to("meta"), False, OWN),
        tuner.place(GRID, Q, False, (model_attention, other)),
        tuner.place(GRID, Q, False, (model_attention, third)),
        tuner.place(GRID, Q, False, (partial, None)),
        tuner.place(GRID, Q, False, None),
    ]
    assert len(set(places)) == len(places)
    assert tuner.place(GRID, Q, False, (model_attention, other)) == places[6]


def test_a_place_keeps_no_function_alive_and_is_no_other_functions() -> None:
    tuner, chained = KernelTuner(), wrap(model_attention)
    place, reference = tuner.place(GRID, Q, False, (model_attention, chained)), weakref.ref(chained)
    tuner.measured(place, DENSE)(1.0)
    del chained
    gc.collect()
    assert reference() is None
    assert tuner.place(GRID, Q, False, (model_attention, wrap(model_attention))) != place


class Slotted:
    """An override that no weak reference can be made to."""

    __slots__ = ()

    def __call__(self, *args: object) -> None:
        pass


def test_an_override_without_weak_references_is_known_by_its_class() -> None:
    tuner = KernelTuner()
    assert tuner.place(GRID, Q, False, (model_attention, Slotted())) == tuner.place(
        GRID, Q, False, (model_attention, Slotted())
    )


def test_the_oldest_places_are_forgotten() -> None:
    for number in range(MAX_FOUND + 2):
        tuner = KernelTuner()
        place = tuner.place(TokenGrid(1, 1, number + 1), Q, False, None)
        for lane in (DENSE, tuner.lane(EXACT, 0.3, "triton")):
            told(tuner, place, lane, 1.0)
        assert tuner.verdict(place, 0.3, (EXACT,), "triton") is not None
    assert len(kernel_tuner._found) == MAX_FOUND
    assert next(iter(kernel_tuner._found))[0][0] == TokenGrid(1, 1, 3)


class Model:
    """A model, as far as the tuner knows one."""


def test_errors_are_of_one_model_and_times_of_all() -> None:
    """Another model's data may ask for another precision."""
    one, other = Model(), Model()
    tuner = KernelTuner(one)
    place = tuner.place(GRID, Q, False, OWN)
    for lane, milliseconds in ((DENSE, 10.0), (tuner.lane(EXACT, 0.3, "triton"), 4.0)):
        told(tuner, place, lane, milliseconds)
    in_8_bits = tuner.lane(INT8, 0.3, "triton")
    told(tuner, place, in_8_bits, 2.0)
    tuner.compared(place, in_8_bits, torch.tensor(1e-3))
    assert tuner.verdict(place, 0.3, KERNELS, "triton") == INT8
    assert KernelTuner(one).verdict(place, 0.3, KERNELS, "triton") == INT8
    assert KernelTuner(other).verdict(place, 0.3, KERNELS, "triton") is None
    assert KernelTuner(other).verdict(place, 0.3, (EXACT,), "triton") == EXACT


def test_a_kernel_that_fails_later_is_no_winner_any_more() -> None:
    tuner, place, winner = tuned(10.0, exact=4.0, int8=2.0)
    assert winner == INT8
    tuner.drop(INT8, "triton")
    assert tuner.verdict(place, 0.3, KERNELS, "triton") == EXACT


def test_tensors_of_a_device_end_with_the_run() -> None:
    tuner = KernelTuner()
    error = torch.zeros(())
    tuner.compared(tuner.place(GRID, Q, False, OWN), "a lane", error)
    alive = weakref.ref(error)
    del error
    tuner.free()
    assert alive() is None


def test_density_classes() -> None:
    assert CLASS_WIDTH == 5
    assert [density_class(density) for density in (0.0, 0.02, 0.03, 0.31, 0.99)] == [0, 0, 5, 30, 100]
