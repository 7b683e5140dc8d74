"""Tiles: a token order cut into query tiles of 128 and key tiles of 64 tokens, all full.

What does not fill a tile joins the text tokens in one dense segment at the end of the sorted sequence:

    sorted sequence = [video, in token order | text before | text after]
    query rows      = full query tiles | the rest: dense rows, which attend everything
    keys            = full key tiles   | the rest: the dense segment, which everything attends
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .grid import TokenGrid
from .order import token_order

QUERY_TILE = 128
KEY_TILE = 64


class Places(NamedTuple):
    """Smallest and largest place of tiles on one axis, (n, 2) without repeats, and which of them each tile has."""

    ends: Tensor
    number: Tensor

    @classmethod
    def of(cls, boxes: Tensor) -> Places:
        """From the ends of all tiles, (tiles, 2)."""
        ends, number = boxes.unique(dim=0, return_inverse=True)
        return cls(ends.to(torch.int32), number)


@dataclass(frozen=True)
class Tiling:
    """How one grid in one token order is cut. Pure bookkeeping on the CPU; `index` is what kernels read.

    Raises:
        ValueError: a size of the token grid out of range, tile sizes below 1, or a query tile that is no multiple of
            the key tile.
    """

    grid: TokenGrid
    order: str
    query_tile: int = QUERY_TILE
    key_tile: int = KEY_TILE

    def __post_init__(self) -> None:
        self.grid.check()
        if self.key_tile < 1 or self.query_tile < 1 or self.query_tile % self.key_tile:
            raise ValueError(
                f"tiles of {self.query_tile} queries and {self.key_tile} keys: "
                "the query tile must be a positive multiple of the key tile"
            )

    @property
    def query_tiles(self) -> int:
        """Full query tiles; those that a pattern decides about."""
        return self.grid.video_tokens // self.query_tile

    @property
    def key_tiles(self) -> int:
        """Full key tiles; those that a pattern may drop."""
        return self.grid.video_tokens // self.key_tile

    @property
    def dense_rows(self) -> int:
        """Query rows outside full tiles: the video's ragged end and the text."""
        return self.grid.tokens - self.query_tiles * self.query_tile

    @property
    def dense_keys(self) -> int:
        """Keys outside full tiles: the video's ragged end and the text."""
        return self.grid.tokens - self.key_tiles * self.key_tile

    @cached_property
    def index(self) -> Tensor:
        """Position in the model's sequence of each token of the sorted sequence, (tokens,) int64."""
        grid = self.grid
        video = token_order(grid, self.order) + grid.prefix
        after = torch.arange(grid.prefix + grid.video_tokens, grid.tokens)
        return torch.cat([video, torch.arange(grid.prefix), after])

    @cached_property
    def query_boxes(self) -> Tensor:
        """Smallest and largest (t, h, w) in each full query tile: (query_tiles, 3, 2)."""
        return self._boxes(self.query_tile, self.query_tiles)

    @cached_property
    def key_boxes(self) -> Tensor:
        """Smallest and largest (t, h, w) in each full key tile: (key_tiles, 3, 2)."""
        return self._boxes(self.key_tile, self.key_tiles)

    @cached_property
    def places(self) -> tuple[tuple[Places, Places], ...]:
        """For each axis the places of query tiles and of key tiles."""
        return tuple(
            (Places.of(self.query_boxes[:, axis]), Places.of(self.key_boxes[:, axis])) for axis in range(3)
        )

    @cached_property
    def own_rows(self) -> Tensor:
        """Query tile that each key tile lies in, below `query_tiles`: (key_tiles in full query tiles,)."""
        return torch.arange(self.query_tiles).repeat_interleave(self.query_tile // self.key_tile)

    def with_own(self, mask: Tensor) -> Tensor:
        """A tile mask (query_tiles, key_tiles) in which each query tile now attends its own key tiles."""
        mask[self.own_rows, torch.arange(len(self.own_rows))] = True
        return mask

    def _boxes(self, tile: int, tiles: int) -> Tensor:
        raster = (self.index[: tiles * tile] - self.grid.prefix).view(tiles, tile)
        _, height, width = self.grid.shape
        place = torch.stack([raster // (height * width), raster // width % height, raster % width], 1)
        return torch.stack([place.amin(-1), place.amax(-1)], -1) if tiles else place.new_zeros(0, 3, 2)
