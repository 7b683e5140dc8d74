"""Which way to compute attention is the fastest here: the model's own, or a sparse kernel. Measured, never guessed.

The model's own attention is timed during the warm-up, sparse kernels in the first calls of each density; where a run
has no warm-up, those calls also run the model's own. What is not at least MARGIN faster stays dense.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..families import Layout
from .speeds import keep_speeds, known_speeds

DENSE, EXACT, INT8 = "dense", "exact", "int8"
KERNELS: dict[str, dict[str, bool]] = {EXACT: {}, INT8: {"int8": True}}
"""Kernels by name, with the options of `AttentionCall` that ask for them; the first is the one errors are against."""

MARGIN = 0.05  # of the dense time: what sparse attention must be faster by
TRIES = 3  # timed calls, of the model's own attention as of a kernel: the fastest counts, without the first
MOST_FACT = 100  # characters of one
MOST_INSIDE = 4  # how deep functions are looked for in functions
ERROR_BUDGET = 2e-2  # relative L2 of a kernel's output against the exact kernel's on the same tile lists
KEPT = "timed in an earlier run; delete user/__sparse_vdit/speeds.json to time anew"
CLASS_WIDTH = 5  # percent of density that count as one


@dataclass(frozen=True)
class Verdict:
    """The way to compute calls of a density.

    Attributes:
        winner: a kernel's name or DENSE.
        times: milliseconds of the fastest kernel and of the model's own attention; None where none were taken.
        kept: whether an earlier run took them.
    """

    winner: str
    times: tuple[float, float] | None = None
    kept: bool = False

    def __str__(self) -> str:
        sparse, own = self.times
        in_8_bits = " in 8 bits" if self.winner == INT8 else ""
        return f"{sparse:.2f} ms sparse{in_8_bits} and {own:.2f} ms dense"


class Race:
    """Times of one run, beside those of earlier runs.

    Args:
        facts: what speed hangs on beside device, grid, batch, dtype and dense backend: model, versions.
        path: file of earlier measurements; None for memory alone.
    """

    def __init__(self, facts: tuple[str, ...], path: Path | None = None):
        self.facts, self.path = facts, path
        self._places: dict[tuple, str] = {}
        self._started: dict[tuple[str, str], int] = {}
        self._times: dict[tuple[str, str], list[float]] = {}
        self._errors: dict[tuple[str, str], Tensor] = {}
        self._dropped: set[tuple[str, str]] = set()
        self._decided: dict[tuple[str, int, str], Verdict] = {}
        self._calls: Counter[tuple[str, int, str]] = Counter()

    def place(self, layout: Layout, q: Tensor, masked: bool, own: str) -> str:
        """Name of all that a call's speed hangs on, for q (B, S, H, D) and the name of the model's own attention."""
        key = (layout, q.shape[0], q.dtype, q.device, masked, own)
        if key not in self._places:
            frames, height, width, prefix, suffix = layout
            dtype = str(q.dtype).removeprefix("torch.")
            grid = f"{prefix}+{frames}x{height}x{width}+{suffix} tokens"
            call = (grid, f"batch {q.shape[0]}", dtype, *(("masked",) if masked else ()))
            self._places[key] = "; ".join((device_name(q.device), *self.facts, *facts({"dense": own}), *call))
        return self._places[key]

    def wants(self, place: str, lane: str) -> bool:
        """Whether one more call should be timed; counts it as begun, so ask only where the clock can time it."""
        begun = self._started.get((place, lane), 0)
        self._started[place, lane] = min(begun + 1, TRIES)
        return begun < TRIES

    def measured(self, place: str, lane: str) -> Callable[[float], None]:
        """Takes the milliseconds of a call that `wants` asked for."""
        return self._times.setdefault((place, lane), []).append

    def compared(self, place: str, lane: str, error: Tensor) -> None:
        """Remember the relative error of a kernel's output, one number on the device; read when the times are."""
        self._errors[place, lane] = error

    def drop(self, kernel: str, backend: str = "") -> None:
        """Take a kernel that failed out of the race."""
        self._dropped.add((kernel, backend))

    def verdict(self, place: str, density: float, kernels: list[str], backend: str = "") -> str | None:
        """The way to compute calls of a density by a backend: a kernel's name or DENSE; None until all were timed."""
        key = (place, density_class(density), backend)
        if key not in self._decided:
            decided = self._decide(*key, [name for name in kernels if (name, backend) not in self._dropped])
            if decided is None:
                return None
            self._decided[key] = decided
        return self._decided[key].winner

    def count(self, place: str, density: float, backend: str = "") -> None:
        """Count a call that went by a verdict."""
        self._calls[place, density_class(density), backend] += 1

    def speedup(self) -> float | None:
        """How many times as fast as the model's own attention the counted calls were, by the times of their verdicts; a
        call that stayed dense counts as such. None where no call has times."""
        timed = [(self._decided[key], calls) for key, calls in self._calls.items() if self._decided[key].times]
        own = sum(verdict.times[1] * calls for verdict, calls in timed)
        taken = sum(verdict.times[verdict.winner == DENSE] * calls for verdict, calls in timed)
        return own / taken if taken else None

    def told(self) -> str:
        """The times that verdicts went by: of the sparsest and the densest calls that were timed, and of the densest
        that ran sparse; empty without any."""
        timed = {density: found for (_, density, _), found in self._decided.items() if found.times is not None}
        if not timed:
            return ""
        sparse = [density for density, found in timed.items() if found.winner != DENSE]
        shown = {min(timed), max(timed), *sorted(sparse)[-1:]}
        kept = f" ({KEPT})" if any(timed[density].kept for density in shown) else ""
        return "a call takes " + ", ".join(f"at density {d / 100:.2f} {timed[d]}" for d in sorted(shown)) + kept

    def _decide(self, place: str, density: int, backend: str, kernels: list[str]) -> Verdict | None:
        here = {at: found for (where, at, by), found in self._decided.items() if (where, by) == (place, backend)}
        lost = [at for at, found in here.items() if found.winner == DENSE]
        if any(sparser <= density for sparser in lost):
            return Verdict(DENSE)  # what is denser than a loser is not tried
        new = self._found(place, density, kernels, backend)
        found = new or self._known(place, density, kernels, backend)
        if found is None:
            return None
        lanes = {name: lane(name, density, backend) for name in kernels}
        times = {name: found[own] for name, own in lanes.items() if self._fits(name, own, found)}
        winner, own = min(times, key=times.get), found[lane(DENSE, density)]
        return Verdict(winner if times[winner] <= (1 - MARGIN) * own else DENSE, (times[winner], own), not new)

    def _found(self, place: str, density: int, kernels: list[str], backend: str) -> dict[str, float] | None:
        """Milliseconds and errors of this run, which are then kept; None until every call was timed."""
        found = {}
        for name in (DENSE, *kernels):
            own = lane(name, density, "" if name == DENSE else backend)
            times = self._times.get((place, name if name == DENSE else own), [])
            if len(times) < TRIES:
                return None
            found[own] = min(times[1:])  # the first may have compiled
            error = float(self._errors.get((place, own), math.inf))
            if math.isfinite(error):
                found[error_lane(own)] = error
        keep_speeds(self.path, place, {name: float(f"{value:.6g}") for name, value in found.items()})
        return found

    def _known(self, place: str, density: int, kernels: list[str], backend: str) -> dict[str, float] | None:
        """What one earlier run found, the model's own attention too: in another run the device may have been busy."""
        known = known_speeds(self.path).get(place, {})
        lanes = (lane(DENSE, density), *(lane(name, density, backend) for name in kernels))
        return known if all(own in known for own in lanes) else None

    def _fits(self, kernel: str, own: str, found: Mapping[str, float]) -> bool:
        """Whether the output of a kernel, with this lane, is near enough to the exact one's."""
        return kernel == EXACT or found.get(error_lane(own), math.inf) <= ERROR_BUDGET

    def results(self) -> dict[str, dict[str, float]]:
        """All that is known of this run's places, for the detailed report."""
        known = known_speeds(self.path)
        return {place: dict(known.get(place, {})) for place in self._places.values()}

    def free(self) -> None:
        """Drop what lies on a device."""
        self._errors.clear()


def density_class(density: float) -> int:
    """Density in percent, in steps of CLASS_WIDTH."""
    return CLASS_WIDTH * round(100 * density / CLASS_WIDTH)


def lane(kernel: str, density: int, backend: str = "") -> str:
    """Name of a kernel's measurements at a density in percent; of DENSE what the kernels were compared with."""
    return f"{backend} {kernel} {density}%".lstrip()


def error_lane(own: str) -> str:
    """Name of the error of a kernel with this lane."""
    return f"{own} error"


def device_name(device: torch.device) -> str:
    """What a device is called in measurements that are kept."""
    if device.type != "cuda":
        return f"{device.type}, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)


def backend_name(function: Callable | None, chained: Callable | None) -> str:
    """What computes dense calls, in words; also of the functions in it, as those make the difference."""
    return ", ".join(_names(chained or function, MOST_INSIDE))


def _names(value: object, depth: int) -> Iterator[str]:
    """Name and first line of a function, then of those in its closure; of a partial the settings too."""
    if isinstance(value, functools.partial):
        settings = (*value.args, *value.keywords.values())
        yield from (repr(setting) for setting in settings if isinstance(setting, str | bool | int | float))
        inside = [value.func, *settings]
    else:
        line = getattr(getattr(value, "__code__", None), "co_firstlineno", "")
        yield f"{getattr(value, '__qualname__', type(value).__qualname__)}:{line}".removesuffix(":")
        inside = [_content(cell) for cell in getattr(value, "__closure__", None) or ()]
    if depth:
        for function in filter(callable, inside):
            yield from _names(function, depth - 1)


def _content(cell: object) -> object:
    """What a closure's cell holds, None of one that was emptied."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def facts(parts: Mapping[str, object]) -> tuple[str, ...]:
    """Facts for a Race, in words that no separator is in; long ones end on a hash of the whole."""
    return tuple(_shortened(f"{name} {value}".replace(";", ",")) for name, value in parts.items())


def _shortened(text: str) -> str:
    if len(text) <= MOST_FACT:
        return text
    return f"{text[: MOST_FACT - 11]}... {hashlib.sha256(text.encode()).hexdigest()[:7]}"
