"""What heads attend, as pictures small enough to keep in a profile: softmax mass between parts of the video.

A part is some frames and some rows of them, so that distance in time and the same place in all frames both show.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels.grid import TokenGrid
from ...kernels.patterns import Pattern
from ...kernels.tiling import KEY_TILE, QUERY_TILE

MAX_MAP_PARTS = 6  # along the frames, and along the rows of a frame


def part_grid(grid: tuple[int, int, int]) -> tuple[int, int]:
    """Parts of a video of (frames, height, width) tokens along frames and rows."""
    return min(grid[0], MAX_MAP_PARTS), min(grid[1], MAX_MAP_PARTS)


def part_count(grid: tuple[int, int, int]) -> int:
    """All of them."""
    frames, rows = part_grid(grid)
    return frames * rows


def part_of_token(grid: tuple[int, int, int]) -> Tensor:
    """Part of each video token in the sequence's own order, int64 (video tokens,)."""
    (frames, height, width), (slabs, strips) = grid, part_grid(grid)
    slab, strip = torch.arange(frames) * slabs // frames, torch.arange(height) * strips // height
    return (slab[:, None] * strips + strip).repeat_interleave(width, 1).flatten()


def part_mass(weights: Tensor, queries: Tensor, parts: Tensor, count: int, prefix: int) -> Tensor:
    """Softmax mass from parts to parts, (count, count).

    Args:
        weights: softmax of some queries over all keys, (rows, S).
        queries: positions of these queries in the sequence, all of the video, int64 (rows,).
        parts: `part_of_token` on the same device.
        prefix: tokens before the video.
    """
    seen = weights[:, prefix : prefix + len(parts)]
    rows = seen.new_zeros(count, len(parts)).index_add_(0, parts[queries - prefix], seen)
    return seen.new_zeros(count, count).index_add_(1, parts, rows)


def as_shares(maps: Tensor) -> Tensor:
    """Maps (.., parts, parts) as shares of what the queries of a part attend in the video; 0 where none was seen."""
    return (maps / maps.sum(-1, keepdim=True).clamp_min(1e-30)).float()


def pattern_map(
    pattern: Pattern, grid: tuple[int, int, int], query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE
) -> Tensor:
    """Share of the pairs between two parts that a pattern attends, float32 (parts, parts); of full tiles alone.

    Raises:
        ValueError: a routed pattern, whose tiles depend on what is shown.
    """
    tiling = pattern.tiling(TokenGrid(*grid), query_tile, key_tile)
    parts, count = part_of_token(grid), part_count(grid)
    mask = pattern.tile_mask(tiling).float()

    def of_tiles(tiles: int, size: int) -> Tensor:
        """How many tokens of each tile lie in each part."""
        inside = parts[tiling.index[: tiles * size]]
        found = torch.zeros(tiles, count)
        return found.index_put_((torch.arange(tiles).repeat_interleave(size), inside), torch.ones(len(inside)), True)

    query, key = of_tiles(tiling.query_tiles, query_tile), of_tiles(tiling.key_tiles, key_tile)
    pairs = query.sum(0)[:, None] * key.sum(0)
    return query.T @ mask @ key / pairs.clamp_min(1)
