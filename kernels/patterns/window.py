"""Windows around a query tile, the rule that diagonal and multi-diagonal share.

A key tile is attended when some pair of the two tiles' boxes lies in the window on every axis. A window that would
reach over the border is shifted inside instead (as in Sliding Tile Attention, arXiv 2502.04507), so that border tokens
see as much as others. Windows may be repeated with a period, as in PSA (arXiv 2609.37001); those need no shifting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..tiling import Tiling


@dataclass(frozen=True)
class Reach:
    """Keys that a query sees on one axis, in tokens.

    Attributes:
        half: places at a distance of at most this from the centre; None for the whole axis.
        shift: of the centre from the query's own place.
        period: the window is repeated at every multiple of it; None for once.
    """

    half: int | None = None
    shift: int = 0
    period: int | None = None


WHOLE = Reach()
MAX_PAIRS = 1 << 20  # looked at at once, which bounds the memory


def half_width_tokens(fraction: float | None, size: int) -> int | None:
    """Half-width in tokens of a half-width given as fraction of an axis of `size` tokens; None stays unlimited."""
    return None if fraction is None else int(fraction * size + 0.5)


def period_tokens(fraction: float | None, size: int) -> int | None:
    """Period in tokens, at least 1, of a period given as fraction of an axis of `size` tokens; None stays none."""
    return None if fraction is None else max(1, int(fraction * size + 0.5))


def window_tile_mask(tiling: Tiling, reaches: tuple[Reach, Reach, Reach]) -> Tensor:
    """Tiles in windows on (t, h, w), and the own tile: bool (query_tiles, key_tiles)."""
    limits = []  # few places are different ones, so that the rule itself costs next to nothing
    for size, reach, (query, key) in zip(tiling.grid.shape, reaches, tiling.places, strict=True):
        if reach.half is not None and 2 * reach.half + 1 < min(size, reach.period or size):
            limits.append((_axis_mask(query.ends, key.ends, size, reach)[:, key.number], query.number))
    mask = torch.ones(tiling.query_tiles, tiling.key_tiles, dtype=torch.bool)
    rows = max(1, MAX_PAIRS // max(1, tiling.key_tiles))
    for begin in range(0, tiling.query_tiles, rows):
        for allowed, number in limits:
            mask[begin : begin + rows] &= allowed[number[begin : begin + rows]]
    return tiling.with_own(mask)


def _axis_mask(query: Tensor, key: Tensor, size: int, reach: Reach) -> Tensor:
    """Which places meet on one axis; query and key (places, 2) are their ends."""
    half = reach.half
    if reach.period is None:
        centres = (query + reach.shift).clamp(half, size - 1 - half)
        low, high = (centres + torch.tensor([-half, half], dtype=torch.int32)).unbind(-1)
        return (key[:, 0] <= high[:, None]) & (key[:, 1] >= low[:, None])
    rows = max(1, MAX_PAIRS // max(1, len(key)))
    return torch.cat([_periodic_mask(part, key, half, reach) for part in query.split(rows)])


def _periodic_mask(query: Tensor, key: Tensor, half: int, reach: Reach) -> Tensor:
    """Some distance key - query - shift of two places lies within half of a multiple of the period."""
    nearest = key[:, 0] - query[:, 1, None] - reach.shift - half
    farthest = key[:, 1] - query[:, 0, None] - reach.shift + half
    return farthest.div(reach.period, rounding_mode="floor") * reach.period >= nearest
