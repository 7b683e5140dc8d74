"""Runs a call by the kernel that won the race, or says that it stays dense; times what is still in the race."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ....kernels.attention import BACKENDS, bar, refusal, run_call
from ....kernels.call import AttentionCall
from ....kernels.memory import out_of_memory
from ....kernels.routing import routed_call
from ....kernels.spot_check import spot_check
from ..families import Layout
from ..reports import reasons
from ..runs.engine import DenseTimer
from ..runs.failures import passes_through
from ..runs.recording import pause_again
from ..runs.run import Run
from .race import DENSE, EXACT, INT8, KERNELS, Race, backend_name, density_class, lane

NOT_TIMED = "some calls could not be timed, and ran sparse without knowing whether that is faster"


class KernelChoice:
    """Kernels of one run.

    Args:
        race: None takes the exact kernel unmeasured.
    """

    def __init__(self, race: Race | None):
        self.race = race
        self._own: str | None = None

    def dense_timer(self, run: Run, layout: Layout, q: Tensor, masked: bool) -> DenseTimer | None:
        """What times a call of the model's own attention, where the race wants it. It holds no tensor."""
        if self.race is None:
            return None
        place, device = self._place(run, layout, q, masked), q.device

        def start() -> Callable[[], None] | None:
            wanted = self._wants(run, device, place, DENSE)
            return run.time(device, DENSE, self.race.measured(place, DENSE)) if wanted else None

        return start

    def attention(
        self, run: Run, layout: Layout, call: AttentionCall, backend: str, again: Callable[[], object] | None
    ) -> Tensor | str:
        """Output by the kernel that won the race, or why the call stays dense; while it goes on by the exact kernel."""
        if self.race is None:
            return self._timed(run, call, backend, EXACT)
        place, density = self._place(run, layout, call.q, call.key_bias is not None), mean_density(call)
        kernels = _kernels(call, backend)
        run.clock.collect()
        winner = self.race.verdict(place, density, kernels)
        if winner is None:
            out = self._try(run, place, call, backend, kernels, again)
            winner = self.race.verdict(place, density, kernels)  # where times are known at once
            return reasons.NOT_FASTER if winner == DENSE else out
        self.race.count(place, density)
        return reasons.NOT_FASTER if winner == DENSE else self._timed(run, call, backend, winner)

    def _wants(self, run: Run, device: torch.device, place: str, lane: str) -> bool:
        """Whether a call is to be timed for the race, and can be; it then counts as begun."""
        return run.clock.ready(device) and self.race.wants(place, lane)

    def _try(
        self,
        run: Run,
        place: str,
        call: AttentionCall,
        backend: str,
        kernels: list[str],
        again: Callable[[], object] | None,
    ) -> Tensor:
        """Output of the exact kernel, timed beside what else is in the race; the others' outputs are compared."""
        device, percent = call.q.device, density_class(mean_density(call))
        if not run.clock.ready(device):
            run.ledger.note(NOT_TIMED)
        while again is not None and self._wants(run, device, place, DENSE):
            stop = run.time(device, DENSE, self.race.measured(place, DENSE))
            again()
            pause_again()
            stop()
        out, checked = None, True  # only what is timed is checked
        while self._wants(run, device, place, lane(EXACT, percent)):
            out = None  # not two at a time
            out = self._timed(run, call, backend, EXACT, place)
            checked = False
        out = self._timed(run, call, backend, EXACT) if out is None else out
        if not checked:
            self._check(call, backend, EXACT, out)
        for kernel in kernels[1:]:
            try:
                self._compare(run, place, call, backend, kernel, out)
            except Exception as error:
                if passes_through(error):
                    raise
                self.race.drop(kernel)
                if not out_of_memory(error):
                    bar(backend, replace(call, **KERNELS[kernel]), error)
                run.ledger.note(f"the {kernel} kernel failed and was left out: {error}")
        return out

    def _compare(self, run: Run, place: str, call: AttentionCall, backend: str, kernel: str, exact: Tensor) -> None:
        """Time a kernel, and take its error against the exact one's output."""
        name = lane(kernel, density_class(mean_density(call)))
        other = None
        while self._wants(run, call.q.device, place, name):
            other = None
            other = self._timed(run, call, backend, kernel, place)
        if other is not None:
            self._check(call, backend, kernel, other)
            self.race.compared(place, name, relative_error(other, exact))  # one number, read when the times are

    def _check(self, call: AttentionCall, backend: str, kernel: str, out: Tensor) -> None:
        """Raise `WrongOutput` where a kernel's output is wrong on this call's data. The torch backend is the
        specification, and needs no check."""
        if backend != "torch":
            call = replace(call, **KERNELS[kernel])
            spot_check(routed_call(call, BACKENDS[backend].choose), out)

    def _timed(self, run: Run, call: AttentionCall, backend: str, kernel: str, place: str | None = None) -> Tensor:
        """Output of a call by a kernel, timed for the report, or for the race at a place."""
        done = None
        if place is not None:
            done = self.race.measured(place, lane(kernel, density_class(mean_density(call))))
        stop = run.time(call.q.device, kernel, done)
        out = run_call(replace(call, **KERNELS[kernel]), backend)
        stop()
        return out

    def _place(self, run: Run, layout: Layout, q: Tensor, masked: bool) -> str:
        if self._own is None:
            self._own = backend_name(run.function, run.chained)
        return self.race.place(layout, q, masked, self._own)

    def told(self) -> str:
        """What was measured, in words; empty where nothing was."""
        return "" if self.race is None else self.race.told()

    def speedup(self) -> float | None:
        """Of attention in calls that a race was decided for; None where none was."""
        return None if self.race is None else self.race.speedup()

    def results(self) -> dict:
        """What was measured, for JSON."""
        return {} if self.race is None else self.race.results()

    def free(self) -> None:
        """Drop what lies on a device."""
        if self.race is not None:
            self.race.free()


def mean_density(call: AttentionCall) -> float:
    """Mean over heads."""
    return sum(call.lists.densities[number] for number in call.head_lists) / len(call.head_lists)


def _kernels(call: AttentionCall, backend: str) -> list[str]:
    """Kernels in the race for a call: INT8 scores where the backend has them and can run the call so."""
    if backend == "torch" or refusal(backend, replace(call, **KERNELS[INT8])) is not None:
        return [EXACT]
    return [EXACT, INT8]


def relative_error(x: Tensor, truth: Tensor) -> Tensor:
    """||x - truth|| / ||truth|| of two (B, S, H, D), one number on their device. Head by head: little memory."""
    sums = torch.zeros(2, dtype=torch.float32, device=x.device)
    for one, other in zip(x.unbind(2), truth.unbind(2), strict=True):
        sums[0] += (one.float() - other).square().sum()
        sums[1] += other.float().square().sum()
    return (sums[0] / sums[1].clamp_min(1e-30)).sqrt()
