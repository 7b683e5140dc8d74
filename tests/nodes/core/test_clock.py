"""The clock of runs: on a GPU, here a stand-in, it makes no event within a forward and never waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from sparse_vdit.nodes.host.core.clock import Clock

GPU = torch.device("cuda", 0)


class FakeEvent:
    """A CUDA event whose device is behind: it is reached once `FakeEvent.reached` says so."""

    made, reached, now = 0, False, 0.0

    def __init__(self, enable_timing: bool):
        FakeEvent.made += 1
        self.at = 0.0

    def record(self, stream: object = None) -> None:
        FakeEvent.now += 1.5
        self.at = FakeEvent.now

    def query(self) -> bool:
        return FakeEvent.reached

    def synchronize(self) -> None:
        FakeEvent.reached = True

    def elapsed_time(self, other: FakeEvent) -> float:
        assert FakeEvent.reached, "read before the device was there"
        return other.at - self.at


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A stand-in for CUDA; set the first entry to capture a graph."""
    FakeEvent.made, FakeEvent.reached, FakeEvent.now = 0, False, 0.0
    state = [False]
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state[0])
    return state


def test_on_a_cpu_times_are_known_at_once() -> None:
    times = []
    clock = Clock()
    clock.reserve(torch.device("cpu"), 3)
    assert clock.ready(torch.device("cpu"))
    stop = clock.start(torch.device("cpu"), "exact", times.append)
    assert times == []
    stop()
    assert len(times) == 1
    assert times[0] >= 0


def test_on_a_gpu_events_are_made_beforehand_and_times_come_later(capturing: list[bool]) -> None:
    clock, times = Clock(), []
    clock.reserve(GPU, 2)
    assert FakeEvent.made == 4
    for _ in range(2):
        clock.start(GPU, "exact", times.append)()
    assert not clock.ready(GPU)
    assert clock.start(GPU, "exact", times.append)() is None  # nothing is left to time it with
    clock.collect()
    assert times == []
    FakeEvent.reached = True
    clock.collect()
    assert times == [1.5, 1.5]
    clock.reserve(GPU, 2)
    assert FakeEvent.made == 4, "events were not used again"


def test_waiting_gives_all_times_at_the_end_of_a_run(capturing: list[bool]) -> None:
    clock, times = Clock(), []
    clock.reserve(GPU, 3)
    for _ in range(3):
        clock.start(GPU, "exact", times.append)()
    clock.collect(wait=True)
    assert len(times) == 3
    clock.free()
    clock.collect(wait=True)


def test_a_call_that_failed_in_between_leaves_nothing_to_read(capturing: list[bool]) -> None:
    clock, times = Clock(), []
    clock.reserve(GPU, 1)
    clock.start(GPU, "exact", times.append)  # never stopped
    clock.collect(wait=True)
    assert times == []


def test_nothing_is_timed_while_a_graph_is_captured(capturing: list[bool]) -> None:
    clock, times = Clock(), []
    clock.reserve(GPU, 1)
    assert clock.ready(GPU)
    capturing[0] = True
    assert not clock.ready(GPU)
    clock.start(GPU, "exact", times.append)()
    capturing[0] = False
    clock.collect(wait=True)
    assert times == []
