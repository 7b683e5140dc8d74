"""What every pattern is: a pure rule that says which key tiles each query tile attends."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ..grid import TokenGrid
from ..order import ORDERS, SPATIAL
from ..tiling import KEY_TILE, QUERY_TILE, Tiling


@dataclasses.dataclass(frozen=True)
class Pattern(ABC):
    """A head's rule in units relative to the video, so that it means the same at every resolution and length.

    `order` is the token order whose tiles suit the rule. A pattern says nothing of text and ragged ends: the tile
    lists keep those dense, except for a skipped head without text.
    """

    kind: ClassVar[str]
    added: ClassVar[frozenset[str]] = frozenset()  # parameters that older plans may lack
    order: str = dataclasses.field(default=SPATIAL, kw_only=True)

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order is {self.order!r}, expected one of {', '.join(ORDERS)}")

    @property
    def rules(self) -> int:
        """Rules that are drawn for it, which its cost goes by."""
        return 1

    @abstractmethod
    def tile_mask(self, tiling: Tiling) -> Tensor:
        """Attended tiles, bool (query_tiles, key_tiles), for a tiling in this pattern's order."""

    def tiling(self, grid: TokenGrid, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE) -> Tiling:
        """The tiling this pattern is bound to on a grid."""
        return Tiling(grid, self.order, query_tile, key_tile)

    def to_dict(self) -> dict:
        """JSON form: kind and parameters; defaults are written too, so that a plan does not depend on them."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    def describe(self) -> str:
        """Kind and parameters in words, for reports and pictures."""
        return self.kind

    def draw(self, grid: TokenGrid, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE) -> Tensor:
        """Picture of the rule: uint8 (tokens, tokens), 255 where a query (row) attends a key, in sequence order."""
        tiling = self.tiling(grid, query_tile, key_tile)
        picture = torch.full((grid.tokens, grid.tokens), 255, dtype=torch.uint8)
        if self.kind == "skip":  # video queries attend no text either
            picture[tiling.index[: tiling.query_tiles * query_tile] if grid.text_tokens else slice(None)] = 0
        mask = self.tile_mask(tiling).repeat_interleave(query_tile, 0).repeat_interleave(key_tile, 1)
        rows, columns = tiling.index[: mask.shape[0]], tiling.index[: mask.shape[1]]
        picture[rows[:, None], columns] = mask.to(torch.uint8) * 255
        return picture


def check_fraction(name: str, value: object, optional: bool = True) -> None:
    """Raise ValueError unless value is a number in 0..1, or None where that is allowed."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}, expected {'null or ' if optional else ''}a number from 0 to 1")


def check_count(name: str, value: object, most: int, least: int = 0) -> None:
    """Raise ValueError unless value is a whole number in least..most."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, expected a whole number from {least} to {most}")
