"""Which way to compute attention is the fastest here: the model's own, or a sparse kernel. Measured, never guessed.

The model's own attention is timed during the warm-up, sparse kernels in the first calls of each density; where a run
has no warm-up, those calls also run the model's own. What is not at least MARGIN faster stays dense.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .families import Layout
from .speeds import keep_speeds, known_speeds

DENSE, EXACT, INT8 = "dense", "exact", "int8"
KERNELS: dict[str, dict[str, bool]] = {EXACT: {}, INT8: {"int8": True}}
"""Kernels by name, with the options of `AttentionCall` that ask for them; the first is the one errors are against."""

MARGIN = 0.05  # of the dense time: what sparse attention must be faster by
TRIES = 2  # calls that are timed at least, of which the fastest counts: the first may compile
DENSE_TRIES = 8  # of the model's own attention, which costs nothing to time in a warm-up
MOST_FACT = 100  # characters of one
ERROR_BUDGET = 2e-2  # relative L2 of a kernel's output against the exact kernel's on the same tile lists
CLASS_WIDTH = 5  # percent of density that count as one


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
        self._dropped: set[str] = set()
        self._decided: dict[tuple[str, int], str] = {}

    def place(self, layout: Layout, q: Tensor, own: str) -> str:
        """Name of all that a call's speed hangs on, for q (B, S, H, D) and the name of the model's own attention."""
        key = (layout, q.shape[0], q.dtype, q.device, own)
        if key not in self._places:
            frames, height, width, prefix, suffix = layout
            dtype = str(q.dtype).removeprefix("torch.")
            grid = f"{prefix}+{frames}x{height}x{width}+{suffix} tokens"
            parts = (device_name(q.device), *self.facts, *facts({"dense": own}), grid, f"batch {q.shape[0]}", dtype)
            self._places[key] = "; ".join(parts)
        return self._places[key]

    def wants(self, place: str, lane: str) -> bool:
        """Whether a call should be timed; counts it as begun."""
        key, tries = (place, lane), DENSE_TRIES if lane == DENSE else TRIES
        if self._started.get(key, 0) >= tries or (lane != DENSE and lane in known_speeds(self.path).get(place, {})):
            return False
        self._started[key] = self._started.get(key, 0) + 1
        return True

    def measured(self, place: str, lane: str) -> Callable[[float], None]:
        """Takes the milliseconds of a call that `wants` asked for."""
        return self._times.setdefault((place, lane), []).append

    def has_dense(self, place: str) -> bool:
        """Whether the model's own attention was timed here, in this run or before, or is being timed."""
        return self._started.get((place, DENSE), 0) >= TRIES or DENSE in known_speeds(self.path).get(place, {})

    def compared(self, place: str, lane: str, error: Tensor) -> None:
        """Remember the relative error of a kernel's output, one number on the device; read when the times are."""
        self._errors[place, lane] = error

    def drop(self, kernel: str) -> None:
        """Take a kernel that failed out of the race."""
        self._dropped.add(kernel)

    def verdict(self, place: str, density: float, kernels: list[str]) -> str | None:
        """The way to compute calls of a density: a kernel's name or DENSE; None until all were timed."""
        key = (place, density_class(density))
        if key not in self._decided:
            winner = self._winner(place, key[1], kernels)
            if winner is None:
                return None
            self._decided[key] = winner
        return self._decided[key]

    def _winner(self, place: str, density: int, kernels: list[str]) -> str | None:
        lost = [at for (where, at), winner in self._decided.items() if where == place and winner == DENSE]
        if any(sparser <= density for sparser in lost):
            return DENSE  # what is denser is no faster
        running = [name for name in kernels if name not in self._dropped]
        times = {name: self.milliseconds(place, lane(name, density)) for name in running}
        dense = self.milliseconds(place, DENSE)
        if dense is None or None in times.values():
            return None
        fit = {name: ms for name, ms in times.items() if self.error(place, lane(name, density)) <= ERROR_BUDGET}
        winner = min(fit, key=fit.get, default=DENSE)
        self._keep(place, density, running)
        return winner if winner in fit and fit[winner] <= (1 - MARGIN) * dense else DENSE

    def milliseconds(self, place: str, lane: str) -> float | None:
        """Fastest of the calls timed in this run, else what an earlier run found; None when neither is known."""
        times = self._times.get((place, lane), [])
        return min(times) if len(times) >= TRIES else known_speeds(self.path).get(place, {}).get(lane)

    def error(self, place: str, lane: str) -> float:
        """Relative error of a kernel; 0 for the exact one, infinite where it was to be measured and was not."""
        if lane.startswith(EXACT):
            return 0.0
        if (place, lane) in self._errors:
            error = float(self._errors[place, lane])
            return error if math.isfinite(error) else math.inf
        return known_speeds(self.path).get(place, {}).get(f"{lane} error", math.inf)

    def _keep(self, place: str, density: int, kernels: list[str]) -> None:
        found = {DENSE: self.milliseconds(place, DENSE)}
        for name in (lane(kernel, density) for kernel in kernels):
            found[name] = self.milliseconds(place, name)
            if not name.startswith(EXACT) and math.isfinite(self.error(place, name)):
                found[f"{name} error"] = self.error(place, name)
        keep_speeds(self.path, place, {name: float(f"{value:.6g}") for name, value in found.items()})

    def explain(self, place: str, density: float, kernels: list[str]) -> str:
        """Why calls of a density stay dense, with both numbers."""
        own = self.milliseconds(place, DENSE)
        percent = density_class(density)
        known = {name: self.milliseconds(place, lane(name, percent)) for name in kernels}
        times = [ms for ms in known.values() if ms is not None]
        if own is None or not times:
            return f"sparse attention was not faster at a lower density, so density {percent / 100:.2f} stays dense"
        return (
            f"at density {percent / 100:.2f} sparse attention takes {min(times):.2f} ms a call and the model's own "
            f"{own:.2f} ms; {MARGIN:.0%} less is asked for"
        )

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


def lane(kernel: str, density: int) -> str:
    """Name of a kernel's measurements at a density in percent."""
    return f"{kernel} {density}%"


def device_name(device: torch.device) -> str:
    """What a device is called in measurements that are kept."""
    if device.type != "cuda":
        return f"{device.type}, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)


def backend_name(function: Callable | None, chained: Callable | None) -> str:
    """What computes dense calls, in words; of a closure also the functions in it, as those make the difference."""
    chosen = chained or function
    name = getattr(chosen, "__qualname__", type(chosen).__qualname__)
    cells = [cell.cell_contents for cell in getattr(chosen, "__closure__", None) or ()]
    inner = [cell.__qualname__ for cell in cells if callable(cell) and hasattr(cell, "__qualname__")]
    return ", ".join([name, *inner])


def facts(parts: Mapping[str, object]) -> tuple[str, ...]:
    """Facts for a Race, in words that no separator is in."""
    return tuple(f"{name} {str(value).replace(';', ',')[:MOST_FACT]}" for name, value in parts.items())
