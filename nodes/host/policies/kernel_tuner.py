"""Which way is the fastest for calls of a density: a sparse kernel, or the model's own attention.

Attention is computed by the sparse kernel that was the fastest on the user's device, and stays dense where none is
faster. The exact kernel's output is what other kernels' errors are taken against. Times live as long as the process.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from ....kernels.grid import TokenGrid
from ..core.stats import grid_name
from ..session.call import DENSE, EXACT, INT8, Own

MARGIN = 0.05  # of the dense time: what sparse attention must be faster by
TRIES = 3  # timed calls, of the model's own attention as of a kernel: the fastest counts, without the first
ERROR_BUDGET = 2e-2  # relative L2 of a kernel's output against the exact kernel's on the same tile lists
CLASS_WIDTH = 5  # percent of density that count as one
MAX_FOUND = 256

Place = tuple
Key = tuple[Place, int, str]
"""Place, class of densities, backend."""


Found = dict[str, float]
"""Milliseconds of the fastest timed call, by lane."""

_found: OrderedDict[Key, Found] = OrderedDict()
"""What runs of this process have decided by. Their own times each, as in another run the device may have been busy."""

_errors: dict[tuple[Key, str, object], float] = {}
"""Of kernels, by lane and model: another model's data may ask for another precision."""


def forget_times() -> None:
    """Time everything anew."""
    _found.clear()
    _errors.clear()


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
    """The `session.call.Tuner` of one run.

    Args:
        model: whose calls these are; errors of kernels are of its own data.
    """

    def __init__(self, model: object = None) -> None:
        self._model = _identity(model)
        self._begun: Counter[tuple[Place, str]] = Counter()
        self._times: defaultdict[tuple[Place, str], list[float]] = defaultdict(list)
        self._errors: dict[tuple[Place, str], Tensor] = {}
        self._dropped: set[tuple[str, str]] = set()
        self._decided: dict[Key, Verdict] = {}
        self._calls: Counter[Key] = Counter()

    def place(self, grid: TokenGrid, q: Tensor, masked: bool, own: Own | None) -> Place:
        """All that a call's speed depends on but its density, for q (B, S, H, D) and the model's own attention."""
        return (grid, q.shape, q.dtype, q.device, masked, *(_identity(function) for function in own or ()))

    def begin_timing(self, place: Place, lane: str) -> bool:
        """Whether one more call is to be timed; counts it as begun, so ask only where it can be timed."""
        if self._begun[place, lane] >= TRIES:
            return False
        self._begun[place, lane] += 1
        return True

    def measured(self, place: Place, lane: str) -> Callable[[float], None]:
        """Takes the milliseconds of a call that was begun."""
        return self._times[place, lane].append

    def compared(self, place: Place, lane: str, error: Tensor) -> None:
        """Remember the relative error of a kernel's output, one number on the device; read when the times are."""
        self._errors[place, lane] = error

    def drop(self, kernel: str, backend: str) -> None:
        """Leave out a kernel that failed."""
        self._dropped.add((kernel, backend))
        lost = [key for key, found in self._decided.items() if (found.winner, key[2]) == (kernel, backend)]
        for key in lost:
            del self._decided[key]

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

    def speedup(self, calls: int) -> float | None:
        """How many times as fast as the model's own attention so many calls were, by the times of the verdicts that
        they went by. The others ran dense, or before any verdict, and count as dense calls of the mean time. None where
        no call has times."""
        # verdicts of a kernel that was dropped are gone, while calls that went by them stay counted
        found = [(self._decided.get(key), count) for key, count in self._calls.items()]
        timed = [(verdict, count) for verdict, count in found if verdict is not None and verdict.times]
        known = sum(count for _, count in timed)
        own = sum(verdict.times[1] * count for verdict, count in timed)
        taken = sum(verdict.times[verdict.winner == DENSE] * count for verdict, count in timed)
        others = own / known * max(0, calls - known) if known else 0.0
        return (own + others) / (taken + others) if taken else None

    def summary(self) -> str:
        """The times that verdicts went by: of the sparsest and the densest calls that were timed, and of the densest
        that ran sparse; empty without any."""
        timed = {density: found for (_, density, _), found in self._decided.items() if found.times is not None}
        if not timed:
            return ""
        sparse = [density for density, found in timed.items() if found.winner != DENSE]
        shown = {min(timed), max(timed), *sorted(sparse)[-1:]}
        return "a call takes " + ", ".join(f"at density {d / 100:.2f} {timed[d]}" for d in sorted(shown))

    def detail(self) -> dict[str, Found]:
        """What the verdicts of this run went by, for JSON."""
        places: dict[str, Found] = {}
        for key in self._decided:
            errors = {f"{lane} error": error for (of, lane, model), error in _errors.items()
                      if (of, model) == (key, self._model) and math.isfinite(error)}  # fmt: skip
            places.setdefault(place_name(key[0]), {}).update(_found.get(key, {}) | errors)
        return places

    def free(self) -> None:
        """Drop what lies on a device."""
        self._errors.clear()

    def _decide(self, place: Place, density: int, backend: str, kernels: list[str]) -> Verdict | None:
        here = {at: found for (where, at, by), found in self._decided.items() if (where, by) == (place, backend)}
        if any(sparser <= density for sparser, found in here.items() if found.winner == DENSE):
            return Verdict(DENSE)  # what is denser than a loser is not tried
        lanes = {name: self.lane(name, density / 100, backend) for name in kernels}
        key = place, density, backend
        found = self._timed(key, lanes.values()) or _found.get(key, {})
        errors = {name: _errors.get((key, lane, self._model)) for name, lane in lanes.items() if name != EXACT}
        if not found.keys() >= {DENSE, *lanes.values()} or None in errors.values():
            return None
        fastest = {name: found[lane] for name, lane in lanes.items() if errors.get(name, 0.0) <= ERROR_BUDGET}
        winner, own = min(fastest, key=fastest.get), found[DENSE]
        return Verdict(winner if fastest[winner] <= (1 - MARGIN) * own else DENSE, (fastest[winner], own))

    def _timed(self, key: Key, lanes: Iterable[str]) -> Found:
        """What this run has measured, which is then remembered; empty until every call was timed."""
        times = {lane: self._times[key[0], lane] for lane in (DENSE, *lanes)}
        if any(len(found) < TRIES for found in times.values()):
            return {}
        for lane in times:
            error = float(self._errors.get((key[0], lane), math.inf))
            _errors[key, lane, self._model] = error if math.isfinite(error) else math.inf
        _found[key] = {lane: float(f"{min(found[1:]):.6g}") for lane, found in times.items()}  # the first may compile
        while len(_found) > MAX_FOUND:
            old, _ = _found.popitem(last=False)
            for forgotten in [known for known in _errors if known[0] == old]:
                del _errors[forgotten]
        return _found[key]


def density_class(density: float) -> int:
    """Density in percent, in steps of CLASS_WIDTH."""
    return CLASS_WIDTH * round(100 * density / CLASS_WIDTH)


def place_name(place: Place) -> str:
    """A place in words: `21x45x80 tokens, 2 x 40 heads x 128, bfloat16, cuda:0`."""
    grid, (batch, _, heads, head_dim), dtype, device, masked, *_ = place
    dtype = str(dtype).removeprefix("torch.")
    name = f"{grid_name(grid)} tokens, {batch} x {heads} heads x {head_dim}, {dtype}, {device}"
    return name + (", masked" if masked else "")


def _identity(thing: object) -> object:
    """Stands for a function or a model for as long as it lives, and keeps nothing alive."""
    try:
        hash(thing)  # the reference's is the thing's
        return None if thing is None else weakref.ref(thing)
    except TypeError:  # no weak references to it, or no hash
        return type(thing).__qualname__
