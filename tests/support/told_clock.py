"""A clock that shows what it is told, in the place of `nodes/host/core/clock.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch


class ToldClock:
    """Milliseconds by what is timed; `later` hands them over at `collect(wait=True)`, as a GPU does.

    Attributes:
        timed: what was timed, in its order.
        able: whether calls can be timed now.
    """

    def __init__(self, later: bool = False, **milliseconds: float):
        self.milliseconds, self.later, self.able = milliseconds, later, True
        self.timed: list[str] = []
        self.waiting: list[tuple] = []

    def reserve(self, device: torch.device, calls: int) -> None:
        pass

    def ready(self, device: torch.device) -> bool:
        return self.able

    def shows(self, what: str) -> float:
        """Milliseconds of the call that begins; `timed` holds those before it."""
        return self.milliseconds[what]

    def start(self, device: torch.device, what: str, done: Callable[[float], None]) -> Callable[[], None]:
        if not self.able:
            return lambda: None
        milliseconds = self.shows(what)
        self.timed.append(what)

        def stop() -> None:
            if self.later:
                self.waiting.append((done, milliseconds))
            else:
                done(milliseconds)

        return stop

    def collect(self, wait: bool = False) -> None:
        if wait:
            self.hand_over()

    def hand_over(self) -> None:
        """The device has come to all that was timed."""
        waiting, self.waiting = self.waiting, []
        for done, milliseconds in waiting:
            done(milliseconds)

    def free(self) -> None:
        pass
