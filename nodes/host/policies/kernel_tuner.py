"""Which way is the fastest for calls of a density: a sparse kernel, or the model's own attention.

Attention is computed by the sparse kernel that was the fastest on the user's device, and stays dense where none is
faster. The exact kernel's output is what other kernels' errors are taken against. Times live as long as the process.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ....kernels.grid import TokenGrid
from ..core.stats import grid_name
from ..session.call import DENSE, EXACT, INT8, Own

MARGIN = 0.05  # of the dense time: what sparse attention must be faster by
TRIES = 3  # timed calls, of the model's own attention as of a kernel: the fastest counts, without the first
ERROR_BUDGET = 2e-2  # relative L2 of a kernel's output against the exact kernel's on the same tile lists
CLASS_WIDTH = 5  # percent of density that count as one
MAX_PLACES = 64

Place = tuple
Key = tuple[Place, int, str]
"""Place, class of densities, backend."""


@dataclass
class Times:
    """What was measured at a place.

    Attributes:
        milliseconds: of timed calls, by lane.
        errors: of kernels, by lane; a tensor until it is read.
    """

    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: dict[str, Tensor | float] = field(default_factory=dict)


_times: OrderedDict[Place, Times] = OrderedDict()


def forget_times() -> None:
    """Time everything anew."""
    _times.clear()


@dataclass(frozen=True)
class Verdict:
    """The way to compute calls of a density.

    Attributes:
        winner: a kernel's name or DENSE.
        times: milliseconds of the fastest kernel and of the model's own attention; None where none were taken.
    """

    winner: str
    times: tuple[float, float] | None = None

    def __str__(self) -> str:
        sparse, own = self.times
        in_8_bits = " in 8 bits" if self.winner == INT8 else ""
        return f"{sparse:.2f} ms sparse{in_8_bits} and {own:.2f} ms dense"


class KernelTuner:
    """The `session.call.Tuner` of one run."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[Place, str]] = Counter()
        self._dropped: set[tuple[str, str]] = set()
        self._decided: dict[Key, Verdict] = {}
        self._calls: Counter[Key] = Counter()

    def place(self, grid: TokenGrid, q: Tensor, masked: bool, own: Own | None) -> Place:
        """All that a call's speed depends on but its density, for q (B, S, H, D) and the model's own attention."""
        return (grid, q.shape, q.dtype, q.device, masked, *(_identity(function) for function in own or ()))

    def wants(self, place: Place, lane: str) -> bool:
        """Whether one more call should be timed; counts it as begun, so ask only where it can be timed."""
        if len(_times_at(place).milliseconds[lane]) >= TRIES or self._begun[place, lane] >= TRIES:
            return False
        self._begun[place, lane] += 1
        return True

    def measured(self, place: Place, lane: str) -> Callable[[float], None]:
        """Takes the milliseconds of a call that `wants` asked for."""
        return _times_at(place).milliseconds[lane].append

    def compared(self, place: Place, lane: str, error: Tensor) -> None:
        """Remember the relative error of a kernel's output, one number on the device; read when the times are."""
        _times_at(place).errors[lane] = error

    def drop(self, kernel: str, backend: str) -> None:
        """Leave out a kernel that failed."""
        self._dropped.add((kernel, backend))

    def verdict(self, place: Place, density: float, kernels: tuple[str, ...], backend: str) -> str | None:
        """The way to compute calls of a density by a backend: a kernel's name or DENSE; None until all were timed."""
        key = (place, density_class(density), backend)
        if key not in self._decided:
            decided = self._decide(*key, [name for name in kernels if (name, backend) not in self._dropped])
            if decided is None:
                return None
            self._decided[key] = decided
        return self._decided[key].winner

    def count(self, place: Place, density: float, backend: str) -> None:
        """Count a call that went by a verdict."""
        self._calls[place, density_class(density), backend] += 1

    def lane(self, kernel: str, density: float, backend: str = "") -> str:
        """Name of a kernel's measurements at a density."""
        return f"{backend} {kernel} {density_class(density)}%".lstrip()

    def speedup(self) -> float | None:
        """How many times as fast as the model's own attention the counted calls were, by the times of their verdicts; a
        call that stayed dense counts as such. None where no call has times."""
        timed = [(self._decided[key], calls) for key, calls in self._calls.items() if self._decided[key].times]
        own = sum(verdict.times[1] * calls for verdict, calls in timed)
        taken = sum(verdict.times[verdict.winner == DENSE] * calls for verdict, calls in timed)
        return own / taken if taken else None

    def summary(self) -> str:
        """The times that verdicts went by: of the sparsest and the densest calls that were timed, and of the densest
        that ran sparse; empty without any."""
        timed = {density: found for (_, density, _), found in self._decided.items() if found.times is not None}
        if not timed:
            return ""
        sparse = [density for density, found in timed.items() if found.winner != DENSE]
        shown = {min(timed), max(timed), *sorted(sparse)[-1:]}
        return "a call takes " + ", ".join(f"at density {d / 100:.2f} {timed[d]}" for d in sorted(shown))

    def detail(self) -> dict[str, dict[str, float]]:
        """Milliseconds of the fastest calls, and errors, of all places of this run, for JSON."""
        places = {place for place, _ in self._begun} | {place for place, *_ in self._decided}
        return {place_name(place): _found(_times_at(place)) for place in places}

    def _decide(self, place: Place, density: int, backend: str, kernels: list[str]) -> Verdict | None:
        here = {at: found for (where, at, by), found in self._decided.items() if (where, by) == (place, backend)}
        if any(sparser <= density for sparser, found in here.items() if found.winner == DENSE):
            return Verdict(DENSE)  # what is denser than a loser is not tried
        found = _times_at(place)
        lanes = {name: self.lane(name, density / 100, backend) for name in kernels}
        if any(len(found.milliseconds[lane]) < TRIES for lane in (DENSE, *lanes.values())):
            return None
        fastest = {name: min(found.milliseconds[lane][1:]) for name, lane in lanes.items() if _fits(found, name, lane)}
        winner, own = min(fastest, key=fastest.get), min(found.milliseconds[DENSE][1:])  # the first may have compiled
        return Verdict(winner if fastest[winner] <= (1 - MARGIN) * own else DENSE, (fastest[winner], own))


def _times_at(place: Place) -> Times:
    if place not in _times:
        _times[place] = Times()
        while len(_times) > MAX_PLACES:
            _times.popitem(last=False)
    return _times[place]


def _fits(found: Times, kernel: str, lane: str) -> bool:
    """Whether the output of a kernel, with this lane, is near enough to the exact one's."""
    found.errors[lane] = float(found.errors.get(lane, math.inf))
    return kernel == EXACT or found.errors[lane] <= ERROR_BUDGET


def _found(times: Times) -> dict[str, float]:
    fastest = {lane: min(found[1:]) for lane, found in times.milliseconds.items() if len(found) >= TRIES}
    errors = {f"{lane} error": float(error) for lane, error in times.errors.items()}
    return {name: float(f"{value:.6g}") for name, value in (fastest | errors).items() if math.isfinite(value)}


def density_class(density: float) -> int:
    """Density in percent, in steps of CLASS_WIDTH."""
    return CLASS_WIDTH * round(100 * density / CLASS_WIDTH)


def place_name(place: Place) -> str:
    """A place in words: `21x45x80 tokens, batch 2, bfloat16, cuda:0`."""
    grid, shape, dtype, device, masked, *_ = place
    dtype = str(dtype).removeprefix("torch.")
    return f"{grid_name(grid)} tokens, batch {shape[0]}, {dtype}, {device}" + (", masked" if masked else "")


def _identity(function: Callable | None) -> object:
    """Stands for a function for as long as it lives, and keeps nothing alive."""
    try:
        hash(function)  # the reference's is the function's
        return function and weakref.ref(function)
    except TypeError:  # no weak references to it, or no hash
        return type(function).__qualname__
