"""What the search may choose from: about 100 windows, unions, stripes and routed heads, and the two extremes.

The paper's five kinds are among them (Sparse-vDiT, arXiv 2506.03065), and so are the windows of STA and PSA, in units
relative to the video. Steps between local windows are small, as most heads are local.
"""

from __future__ import annotations

from ...kernels.order import SPATIAL, SPATIOTEMPORAL
from ...kernels.patterns import Dense, Diagonal, MultiDiagonal, Pattern, Routed, Skip, Union, VerticalStripe
from .columns import STRIPE_SHARES, ProfiledStripe

FIRST_FRAME = (0.0, 0.0, 0.0, 1.0, 0.0, 1.0)
LAST_FRAME = (1.0, 1.0, 0.0, 1.0, 0.0, 1.0)
ROUTED_SHARES = (0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5)
_MIDDLE = (0.0, 1.0, 0.35, 0.65, 0.35, 0.65)  # the middle of every frame


def default_candidates() -> tuple[Pattern, ...]:
    """Dense first, then all others."""
    routed = (Routed(share) for share in ROUTED_SHARES)
    return (*static_candidates(), *routed, *(ProfiledStripe(share) for share in STRIPE_SHARES))


def static_candidates() -> tuple[Pattern, ...]:
    """Those that keep the same tiles for every head and video: dense first, then skip, windows, unions and stripes."""
    return (Dense(), Skip(), *_diagonals(), *_multi_diagonals(), *_unions(), *_stripes())


def _diagonals() -> list[Pattern]:
    """Bands of frames, local cubes in both token orders, and strips as wide or as high as the frame."""
    bands = [Diagonal(frames) for frames in (0, 1, 2, 3, 4, 8)] + [Diagonal(shift=-1), Diagonal(shift=1)]
    cubes = [Diagonal(frames, size, size) for frames in (0, 1, 2, 4) for size in (0.05, 0.1, 0.15, 0.2, 0.3)]
    deep = [Diagonal(frames, size, size, order=SPATIOTEMPORAL) for frames in (2, 4, 8) for size in (0.05, 0.1, 0.2)]
    strips = [
        Diagonal(frames, *part) for frames in (0, 1, 2) for size in (0.1, 0.2, 0.35) for part in _either(size)
    ]
    return [*bands, *cubes, *deep, *strips]


def _multi_diagonals() -> list[Pattern]:
    """Places, rows and columns through all frames, through every n-th frame, and repeated within the frame."""
    places = [MultiDiagonal(size, size) for size in (0.0, 0.05, 0.1, 0.15, 0.25, 0.35)]
    places += [MultiDiagonal(0.25, 0.15), MultiDiagonal(0.4, 0.1)]  # STA's and PSA's commonest
    lines = [MultiDiagonal(*part) for size in (0.0, 0.1, 0.25) for part in _either(size)]
    some = [MultiDiagonal(size, size, every, order=SPATIAL) for every in (2, 4) for size in (0.1, 0.25)]
    again = [MultiDiagonal(0.05, None, height_period=period) for period in (0.25, 0.5)]
    again += [MultiDiagonal(None, 0.05, width_period=period) for period in (0.25, 0.5)]
    return [*places, *lines, *some, *again]


def _unions() -> list[Pattern]:
    """Own frames and own place together, and both with the first frame: the commonest useful ones."""
    frames = [Diagonal(n) for n in (0, 1, 2)]
    places = [MultiDiagonal(size, size, order=SPATIAL) for size in (0.0, 0.05, 0.1, 0.2)]
    lines = [MultiDiagonal(*part, order=SPATIAL) for part in _either(0.0)]
    first = VerticalStripe((FIRST_FRAME,))
    pairs: list[tuple[Pattern, ...]] = [(band, place) for band in frames[:2] for place in (*places, *lines)]
    pairs += [(Diagonal(1, size, size), place) for size in (0.2, 0.3) for place in places[:2]]
    pairs += [(band, first) for band in frames] + [(Diagonal(1, 0.2, 0.2), first), (places[2], first)]
    return [Union(parts) for parts in (*pairs, (frames[0], places[1], first))]


def _stripes() -> list[Pattern]:
    """The first frame, the first and the last, the middle of all frames."""
    return [VerticalStripe((FIRST_FRAME,)), VerticalStripe((FIRST_FRAME, LAST_FRAME)), VerticalStripe((_MIDDLE,))]


def _either(size: float) -> tuple[tuple[float | None, float | None], ...]:
    """(height, width) limited on one of both."""
    return (size, None), (None, size)
