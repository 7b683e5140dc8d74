"""What the search may choose from: the paper's five kinds with a few concrete numbers each."""

from __future__ import annotations

from ..kernels.patterns import Dense, Diagonal, MultiDiagonal, Pattern, Skip, VerticalStripe

FIRST_FRAME = (0.0, 0.0, 0.0, 1.0, 0.0, 1.0)
LAST_FRAME = (1.0, 1.0, 0.0, 1.0, 0.0, 1.0)


def default_candidates() -> tuple[Pattern, ...]:
    """Dense first, then skip, frame bands, local cubes, places through time, rows, columns and stripes."""
    bands = [Diagonal(frames) for frames in (0, 1, 2, 4)]
    cubes = [Diagonal(frames, size, size) for frames in (0, 1, 3) for size in (0.1, 0.25)]
    places = [MultiDiagonal(size, size) for size in (0.0, 0.05, 0.1, 0.15, 0.25, 0.35)]
    rows_and_columns = [MultiDiagonal(size, None) for size in (0.0, 0.1, 0.25)]
    rows_and_columns += [MultiDiagonal(None, size) for size in (0.0, 0.1, 0.25)]
    stripes = [VerticalStripe((FIRST_FRAME,)), VerticalStripe((FIRST_FRAME, LAST_FRAME)), VerticalStripe((_MIDDLE,))]
    return (Dense(), Skip(), *bands, *cubes, *places, *rows_and_columns, *stripes)


_MIDDLE = (0.0, 1.0, 0.35, 0.65, 0.35, 0.65)  # the middle of every frame
