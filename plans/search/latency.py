"""Times of attention on the user's own device: one head by its density, fitted to launches of equal and of mixed heads.

A launch is taken as the sum of its heads, each a function of its density that is linear between measured ones. Launches
in which heads of many densities run together are measured too; how far the sum is from them is part of the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...kernels.attention import choose_backend, keep_tables, run_call
from ...kernels.call import AttentionCall
from ...kernels.grid import TokenGrid
from ...kernels.lists import TileListBuilder, check_work
from ...kernels.patterns import Dense, Pattern, Routed, Skip
from ..profile.columns import ProfiledStripe
from ..profile.profile import ProfileHeader

STATIC_DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
ROUTED_DENSITIES = (0.02, 0.1, 0.25, 0.5)
HEAD_TOKENS = 1 << 19  # of a launch: fills a GPU, and q, k, v and the output take half a gigabyte in 16 bits
MIN_HEADS = 4
ROUNDS = 3  # of all launches, so that what slows a device for a while slows no launch alone; the fastest counts
SECONDS = 20.0  # after which no other round begins

STATIC, ROUTED = "static ", "routed "  # with a density, names of times in a file

Knots = tuple[tuple[float, float], ...]
"""(density, milliseconds) in rising order."""
DenseAttention = Callable[[Tensor, Tensor, Tensor], object]
"""Attention of the model's own on q, k, v (B, S, H, D)."""


class LatencyError(RuntimeError):
    """Times could not be measured; the message says why."""


@dataclass(frozen=True)
class Latencies:
    """Milliseconds of one head in one call.

    Attributes:
        device: what they were measured on, in words.
        dense: the model's own attention.
        skip: a head that gives zeros.
        static_knots, routed_knots: heads with given tiles, and heads that choose theirs.
        deviation: largest part by which a launch differs from the sum of its heads.
    """

    device: str
    dense: float
    skip: float
    static_knots: Knots
    routed_knots: Knots
    deviation: float

    def static(self, density: float) -> float:
        """Of a head with given tiles; below the lowest measured density as there, as short rows have fixed costs."""
        return float(np.interp(density, *zip(*self.static_knots, strict=True)))

    def routed(self, density: float) -> float:
        """Of a head that chooses its tiles; as one with given tiles where none was measured."""
        knots = self.routed_knots or self.static_knots
        return float(np.interp(density, *zip(*knots, strict=True)))

    def numbers(self) -> dict[str, float]:
        """All numbers by names, for a file."""
        found = {"dense": self.dense, "skip": self.skip, "deviation": self.deviation}
        for kind, knots in ((STATIC, self.static_knots), (ROUTED, self.routed_knots)):
            found |= {f"{kind}{density:.6f}": milliseconds for density, milliseconds in knots}
        return {name: float(f"{number:.6g}") for name, number in found.items()}

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, float], device: str) -> Latencies | None:
        """The table that numbers at least 0, from a file that may be damaged, are; None where they are no whole one."""
        try:
            static, routed = (
                tuple(sorted((float(name[len(kind) :]), numbers[name]) for name in numbers if name.startswith(kind)))
                for kind in (STATIC, ROUTED)
            )
            table = cls(device, numbers["dense"], numbers["skip"], static, routed, numbers["deviation"])
        except (KeyError, ValueError):
            return None
        sound = all(0 <= density <= 1 for density, _ in (*static, *routed))
        return table if sound and len(static) > 1 and table.dense > 0 else None


@dataclass(frozen=True)
class TimedLaunch:
    """A measured call: the pattern of each head, and milliseconds."""

    heads: tuple[Pattern, ...]
    milliseconds: float


def measure_latencies(
    header: ProfileHeader,
    device: torch.device,
    dtype: torch.dtype,
    dense: DenseAttention,
    name: str,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Latencies:
    """Measure on a profile's grid with random q, k, v, by the backend that takes calls on the device.

    Args:
        dense: the model's own attention.
        name: of the device.
        progress: is told how many of how many calls are done.

    Raises:
        LatencyError: no fast kernel takes the call.
        RuntimeError: what the device or a kernel raises, out of memory among it.
    """
    patterns = knot_patterns(header)
    count = max(MIN_HEADS, min(header.heads, HEAD_TOKENS // TokenGrid(*header.grid).tokens))
    mixes = launch_heads(patterns, count)
    bench = _Bench(header, list(patterns), count, device, dtype)
    calls = [lambda: dense(*bench.qkv), *(bench.call(heads) for heads in mixes)]
    own, *times = _fastest(calls, device, progress)
    launches = [TimedLaunch(heads, milliseconds) for heads, milliseconds in zip(mixes, times, strict=True)]
    return fit(launches, patterns, own / count, name)


def _fastest(
    calls: Sequence[Callable[[], object]], device: torch.device, progress: Callable[[int, int], None]
) -> list[float]:
    """Milliseconds of each call, the least of some rounds; a round before them may compile."""
    begin, total = time.perf_counter(), (1 + ROUNDS) * len(calls)
    for done, call in enumerate(calls, 1):
        call()
        progress(done, total)
    found = [math.inf] * len(calls)
    for number in range(1, 1 + ROUNDS):
        if number > 1 and time.perf_counter() - begin > SECONDS:
            break
        for place, call in enumerate(calls):
            found[place] = min(found[place], _milliseconds(call, device))
            progress(number * len(calls) + place + 1, total)
    progress(total, total)
    return found


def knot_patterns(header: ProfileHeader) -> dict[Pattern, float]:
    """Patterns to measure and their densities: skip, and the candidates nearest to the densities of the table."""
    known = dict(zip(header.candidates, header.densities, strict=True))
    routed = [pattern for pattern in known if isinstance(pattern, Routed)]
    # a profiled stripe has tiles once it is a head's
    static = [pattern for pattern in known if not isinstance(pattern, Routed | Skip | ProfiledStripe)]
    chosen: dict[Pattern, float] = {Skip(): 0.0}
    for wanted, some in ((STATIC_DENSITIES, static), (ROUTED_DENSITIES, routed)):
        for density in wanted if some else ():
            nearest = min(some, key=lambda pattern: abs(known[pattern] - density))
            chosen[nearest] = known[nearest]
    return {**chosen, Dense(): 1.0}


def launch_heads(patterns: dict[Pattern, float], count: int) -> list[tuple[Pattern, ...]]:
    """Heads of all launches: every pattern alone, then mixed ones; skipped heads only beside others, as they run."""
    alone = [pattern for pattern in patterns if not isinstance(pattern, Skip)]
    alone.sort(key=patterns.get)
    middle, half = alone[len(alone) // 2], count // 2
    mixed = [
        tuple(alone[head * len(alone) // count] for head in range(count)),
        (Skip(),) * half + (middle,) * (count - half),
        (alone[0],) * half + (alone[-1],) * (count - half),
    ]
    return [(pattern,) * count for pattern in alone] + mixed


def fit(launches: Sequence[TimedLaunch], patterns: dict[Pattern, float], dense: float, name: str) -> Latencies:
    """Times of heads with the least squares of relative deviations from launches, rising with density."""
    numbers = {pattern: number for number, pattern in enumerate(patterns)}
    uses = np.zeros((len(launches), len(numbers)))
    for row, launch in enumerate(launches):
        for pattern in launch.heads:
            uses[row, numbers[pattern]] += 1 / launch.milliseconds
    found = np.linalg.lstsq(uses, np.ones(len(launches)), rcond=None)[0].clip(min=0)
    times = {pattern: float(found[number]) for pattern, number in numbers.items()}

    def knots(routed: bool) -> Knots:
        pairs = sorted((density, times[pattern]) for pattern, density in patterns.items()
                       if isinstance(pattern, Routed) == routed and not isinstance(pattern, Skip))  # fmt: skip
        times_of = np.array([milliseconds for _, milliseconds in pairs])
        rising = np.maximum.accumulate(times_of) + np.minimum.accumulate(times_of[::-1])[::-1]
        return tuple((density, float(value) / 2) for (density, _), value in zip(pairs, rising, strict=True))

    table = Latencies(name, dense, times[Skip()], knots(False), knots(True), 0.0)
    used = np.array([head_milliseconds(pattern, density, table) for pattern, density in patterns.items()])
    return replace(table, deviation=float(np.abs(uses @ used - 1).max()))


def head_milliseconds(pattern: Pattern, density: float, table: Latencies) -> float:
    """Of one head beside others."""
    if isinstance(pattern, Skip):
        return table.skip
    return table.routed(density) if isinstance(pattern, Routed) else table.static(density)


class _Bench:
    """Random q, k, v on a profile's grid, and calls on them."""

    def __init__(
        self, header: ProfileHeader, patterns: Sequence[Pattern], heads: int, device: torch.device, dtype: torch.dtype
    ):
        grid = TokenGrid(*header.grid)
        check_work(patterns, grid.video_tokens, header.query_tile, header.key_tile)
        builder = TileListBuilder(grid, header.query_tile, header.key_tile)
        self.numbers = {pattern: builder.add(pattern) for pattern in patterns}
        self.lists = builder.build().to(device)
        generator = torch.Generator(device).manual_seed(0)
        shape = (1, grid.tokens, heads, header.head_dim)
        self.qkv = [torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(3)]

    def call(self, heads: Sequence[Pattern]) -> Callable[[], Tensor]:
        """Attention with a pattern for each head.

        Raises:
            LatencyError: on a GPU, where no kernel but torch's takes it: a run would stay dense.
        """
        numbers = tuple(self.numbers[pattern] for pattern in heads)
        q, k, v = self.qkv
        call = AttentionCall(q, k, v, self.lists, numbers)
        backend, passed_over = choose_backend(call)
        if backend == "torch" and call.q.device.type != "cpu":
            raise LatencyError(f"no fast kernels for this device: {passed_over}")
        keep_tables(self.lists, numbers, 1, call.q.shape[3], backend)
        return lambda: run_call(call, backend)


def _milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """Of one call, from start to end on the device."""
    if device.type != "cuda":
        begin = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - begin)
    with torch.cuda.device(device):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last)
