"""Windows around a query tile, the rule that diagonal and multi-diagonal share.

A key tile is attended when its tokens' box meets the window of the query tile's box. A window that would reach over
the border is shifted inside instead (as in Sliding Tile Attention, arXiv 2502.04507), so that border tokens see as
much as others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..tiling import Tiling


def half_width_tokens(fraction: float | None, size: int) -> int | None:
    """Half-width in tokens of a half-width given as fraction of an axis of `size` tokens; None stays unlimited."""
    return None if fraction is None else int(fraction * size + 0.5)


def window_tile_mask(tiling: Tiling, half_widths: tuple[int | None, int | None, int | None]) -> Tensor:
    """Tiles in windows of +-half_widths tokens on (t, h, w), None for no limit: bool (query_tiles, key_tiles)."""
    mask = torch.ones(tiling.query_tiles, tiling.key_tiles, dtype=torch.bool)
    for axis, (size, half) in enumerate(zip(tiling.grid.shape, half_widths, strict=True)):
        if half is None or 2 * half + 1 >= size:
            continue
        low, high = (tiling.query_boxes[:, axis].clamp(half, size - 1 - half) + torch.tensor([-half, half])).unbind(-1)
        key_low, key_high = tiling.key_boxes[:, axis].unbind(-1)
        mask &= (key_low <= high[:, None]) & (key_high >= low[:, None])
    return mask
