"""Times calls on a device without waiting for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import torch

Done = Callable[[float], None]


class Clock:
    """Milliseconds of calls, handed to whoever asked once they are known: on a GPU some time after the call.

    Events are made by `reserve`, never by `start`: a forward that ComfyUI records must not make what outlives it.
    """

    def __init__(self) -> None:
        self._free: dict[torch.device, list[tuple]] = {}
        self._pending: deque[tuple] = deque()

    def reserve(self, device: torch.device, calls: int) -> None:
        """Make ready for so many calls on a device, before the forward in which they are timed."""
        if device.type != "cuda":
            return
        self.collect()
        free = self._free.setdefault(device, [])
        with torch.cuda.device(device):
            while len(free) < calls:
                pair = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
                for event in pair:
                    event.record()  # torch makes an event at its first use
                free.append(pair)

    def ready(self, device: torch.device) -> bool:
        """Whether a call on a device can be timed now."""
        if device.type != "cuda":
            return True
        return bool(self._free.get(device)) and not torch.cuda.is_current_stream_capturing()

    def start(self, device: torch.device, what: str, done: Done) -> Callable[[], None]:
        """Begin to time a call; call the result at its end, and `done` gets the milliseconds.

        Nothing is timed where it is not `ready`: on a GPU beyond what was reserved, or while a CUDA graph is captured.

        Args:
            what: which call it is: a kernel, DENSE or an observer; clocks of tests go by it.
        """
        if device.type != "cuda":
            begin = time.perf_counter()
            return lambda: done(1000 * (time.perf_counter() - begin))
        if not self.ready(device):
            return _nothing
        first, last = self._free[device].pop()
        stream = torch.cuda.current_stream(device)
        first.record(stream)

        def stop() -> None:  # only a finished pair is kept: after an error in between there is no end to read
            last.record(stream)
            self._pending.append((device, first, last, done))

        return stop

    def collect(self, wait: bool = False) -> None:
        """Hand over the times that are known by now; all of them when it may wait for the device."""
        while self._pending:
            device, first, last, done = self._pending[0]
            if wait:
                last.synchronize()
            elif not last.query():
                return
            self._pending.popleft()
            self._free[device].append((first, last))
            done(first.elapsed_time(last))

    def free(self) -> None:
        """Drop all events."""
        self._pending.clear()
        self._free.clear()


def _nothing() -> None:
    pass
