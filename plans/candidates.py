"""What the search may choose from: the paper's five kinds with a few concrete numbers each."""

from __future__ import annotations

from ..kernels.patterns import Dense, Diagonal, MultiDiagonal, Pattern, Skip, VerticalStripe

FIRST_FRAME = (0.0, 0.0, 0.0, 1.0, 0.0, 1.0)
LAST_FRAME = (1.0, 1.0, 0.0, 1.0, 0.0, 1.0)


def default_candidates() -> tuple[Pattern, ...]:
    """Dense first, then skip, frame bands, local cubes and strips, places through time, rows, columns and stripes.

    Steps between local windows are small, as most heads are local: with half as many cubes and no strips, plans of the
    same density were 1.7 dB worse on the small Wan of the tests.
    """
    bands = [Diagonal(frames) for frames in (0, 1, 2, 4)]
    cubes = [Diagonal(frames, size, size) for frames in (0, 1, 2, 4) for size in (0.1, 0.2, 0.3)]
    strips = [Diagonal(frames, *part) for frames in (0, 1, 2) for part in ((0.2, None), (None, 0.2))]
    places = [MultiDiagonal(size, size) for size in (0.0, 0.05, 0.1, 0.15, 0.25, 0.35)]
    rows_and_columns = [MultiDiagonal(size, None) for size in (0.0, 0.1, 0.25)]
    rows_and_columns += [MultiDiagonal(None, size) for size in (0.0, 0.1, 0.25)]
    stripes = [VerticalStripe((FIRST_FRAME,)), VerticalStripe((FIRST_FRAME, LAST_FRAME)), VerticalStripe((_MIDDLE,))]
    return (Dense(), Skip(), *bands, *cubes, *strips, *places, *rows_and_columns, *stripes)


_MIDDLE = (0.0, 1.0, 0.35, 0.65, 0.35, 0.65)  # the middle of every frame
