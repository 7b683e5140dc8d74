"""The shapes that kernels are measured on, and the tile lists that heads get there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder, TileLists
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Pattern, Routed, Skip
from sparse_vdit.plans.profile.candidates import static_candidates

LIKE = 3  # patterns near the wanted density that a head may get


@dataclass(frozen=True)
class Shape:
    """One layer's self-attention of a model."""

    grid: TokenGrid
    heads: int
    head_dim: int = 128


SHAPES = {  # the most important first
    "wan14b_720p": Shape(TokenGrid(21, 45, 80), 40),
    "hunyuan_720p": Shape(TokenGrid(33, 45, 80, suffix=256), 24),
    "cogvideox15": Shape(TokenGrid(11, 48, 85, prefix=226), 48, 64),
    "wan14b_480p": Shape(TokenGrid(21, 30, 52), 40),
    "wan1_3b_480p": Shape(TokenGrid(21, 30, 52), 12),
}
TINY = {"tiny": Shape(TokenGrid(7, 13, 17, prefix=5, suffix=3), 3, 64)}
CPU = {"cpu_8192": Shape(TokenGrid(8, 32, 32), 12)}


def pool() -> tuple[Pattern, ...]:
    """Patterns of all densities: the search's own candidates and graded widths of two of their kinds."""
    frames = (Diagonal(size) for size in (3, 5, 6, 8, 10, 12, 16))
    places = (MultiDiagonal(size, size) for size in (0.2, 0.3, 0.4, 0.45))
    return (*(pattern for pattern in static_candidates() if not isinstance(pattern, Skip)), *frames, *places)


def mix(densities: dict[int, float], heads: int, wanted: float) -> tuple[int, ...]:
    """List of each head, from a quarter to seven quarters of the wanted mean, of as many kinds as are near.

    Args:
        densities: of each list.
    """
    used, chosen, carried = dict.fromkeys(densities, 0), [], 0.0
    for head in range(heads):
        goal = min(1.0, wanted * (0.25 + 1.5 * (head + 0.5) / heads)) + carried
        near = sorted(densities, key=lambda number: abs(densities[number] - goal))[: LIKE if head < heads - 1 else 1]
        best = min(near, key=lambda number: used[number])
        used[best] += 1
        carried = goal - densities[best]
        chosen.append(best)
    return tuple(chosen)


def build_lists(shape: Shape, wanted: Sequence[float]) -> tuple[TileLists, dict[float, tuple[int, ...]], list[int]]:
    """All lists of a shape, the mix of each density, and the routed list of each."""
    builder = TileListBuilder(shape.grid)
    numbers = [builder.add(pattern) for pattern in pool()]
    dense = builder.add(Dense())
    routed = [builder.add(Routed(density)) for density in wanted]
    lists = builder.build()
    densities = {number: lists.densities[number] for number in numbers}
    mixes = {
        density: (dense,) * shape.heads if density >= 1 else mix(densities, shape.heads, density) for density in wanted
    }
    return lists, mixes, routed
