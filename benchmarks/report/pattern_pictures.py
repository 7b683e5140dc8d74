"""Pictures of patterns for the README: which tokens attend which."""

from __future__ import annotations

import numpy as np
import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import pattern_density
from sparse_vdit.kernels.patterns import Pattern
from sparse_vdit.kernels.tiling import KEY_TILE, QUERY_TILE
from sparse_vdit.plans.view.colours import UNSHADED, kind_colour
from sparse_vdit.plans.view.pictures import (
    GAP,
    GREY,
    INK,
    PICTURE_PIXELS,
    TEXT,
    TITLE,
    from_share,
    stack,
    text_block,
    with_axes,
)

MAX_SAMPLES = 2048  # tokens a side


def draw_pattern(
    pattern: Pattern, grid: TokenGrid, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE, words: str = ""
) -> np.ndarray:
    """What each token (down) attends (across), both in sequence order, with a caption that `words` explain: uint8 RGB
    (H, W, 3)."""
    attended = _sampled_mask(pattern, grid, query_tile, key_tile)
    scale = max(1, PICTURE_PIXELS // 3 // len(attended))
    ink = np.kron(attended, np.ones((scale, scale))) if scale > 1 else attended
    picture = from_share(ink, kind_colour("dense" if pattern.kind in UNSHADED else pattern.kind))
    density = pattern_density(pattern, grid, query_tile, key_tile)
    caption = text_block(
        [
            (f"{pattern.kind.replace('_', ' ')}, density {density:.2f}", TITLE, INK),
            (words or pattern.describe(), TEXT, GREY),
        ]
    )
    framed = with_axes(picture, grid.tokens, grid.tokens, ("key token", "query token"))
    return np.asarray(stack([caption, framed], margin=GAP))


def _sampled_mask(pattern: Pattern, grid: TokenGrid, query_tile: int, key_tile: int) -> np.ndarray:
    """Attended pairs of evenly spaced tokens, 0 or 1, at most MAX_SAMPLES a side, however long the sequence."""
    tiling = pattern.tiling(grid, query_tile, key_tile)
    # a row and a column more, for what is outside full tiles and always attends and is attended
    mask = torch.nn.functional.pad(pattern.tile_mask(tiling), (0, 1, 0, 1), value=True)
    if pattern.kind == "skip":  # but for a skipped head, whose text alone attends
        mask[: -1 if grid.text_tokens else None] = False
    place = tiling.index.argsort()
    tokens = torch.linspace(0, grid.tokens - 1, min(grid.tokens, MAX_SAMPLES)).round().long()
    row = (place[tokens] // query_tile).clamp(max=tiling.query_tiles)
    column = (place[tokens] // key_tile).clamp(max=tiling.key_tiles)
    return mask[row][:, column].numpy().astype(np.float64)
