"""Token orders: how video tokens are sorted before they are cut into tiles.

Tokens follow a serpentine through bricks (time slab x row strip), so that 128 consecutive tokens are a compact
neighbourhood and every tile but the last is full whatever the grid. Two orders suffice: `spatial` keeps a tile within a
frame (same-frame heads), `spatiotemporal` lets it reach through frames (same-place heads).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .grid import TokenGrid

SPATIAL, SPATIOTEMPORAL = "spatial", "spatiotemporal"
ORDERS = (SPATIAL, SPATIOTEMPORAL)

# (deepest time slab, highest row strip): a 128-token tile is then about 1 x 8 x 16 or 8 x 4 x 4 tokens
_BRICK = {SPATIAL: (1, 8), SPATIOTEMPORAL: (8, 4)}


def balanced_parts(size: int, largest: int) -> Tensor:
    """Part number (size,) of each position when an axis is cut into the fewest nearly equal parts <= largest."""
    parts = -(-size // largest)
    return torch.arange(size) * parts // size


def token_order(grid: TokenGrid, order: str) -> Tensor:
    """Video tokens sorted in an order: (frames * height * width,) int64 raster numbers, the first tile's first.

    Raises:
        ValueError: an order that is not in ORDERS.
    """
    if order not in _BRICK:
        raise ValueError(f"token order {order!r} is unknown, expected one of {', '.join(ORDERS)}")
    depth, strip_height = _BRICK[order]
    t, h, w = (axis.flatten() for axis in torch.meshgrid(*(torch.arange(n) for n in grid.shape), indexing="ij"))
    slab = balanced_parts(grid.frames, depth)[t]
    strip = balanced_parts(grid.height, strip_height)[h]
    # serpentine: every second slab runs its strips backwards, every second strip its columns, so neighbours stay near
    strips = int(strip.max()) + 1
    strip = torch.where(slab % 2 == 1, strips - 1 - strip, strip)
    run = slab * strips + strip
    column = torch.where(run % 2 == 1, grid.width - 1 - w, w)
    rank = ((run * grid.width + column) * grid.frames + t) * grid.height + h
    return rank.argsort()
