"""Vertical stripe (M4 of Sparse-vDiT): a few global columns that every query attends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..tiling import Tiling
from .base import Pattern, check_fraction

MAX_BOXES = 64


@dataclass(frozen=True)
class VerticalStripe(Pattern):
    """Key tiles that meet one of the `columns`, and the own tile.

    A column is a box (t0, t1, h0, h1, w0, w1) of the video: fractions of its axes, ends included, so that
    (0, 0, 0, 1, 0, 1) is the first frame whatever the length.
    """

    kind: ClassVar[str] = "vertical_stripe"
    columns: tuple[tuple[float, float, float, float, float, float], ...] = ((0, 0, 0, 1, 0, 1),)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.columns, (list, tuple)) or not 1 <= len(self.columns) <= MAX_BOXES:
            raise ValueError(f"columns is {self.columns!r}, expected 1 to {MAX_BOXES} boxes")
        for number, box in enumerate(self.columns):
            if not isinstance(box, (list, tuple)) or len(box) != 6:
                raise ValueError(f"columns[{number}] is {box!r}, expected six fractions (t0, t1, h0, h1, w0, w1)")
            for value in box:
                check_fraction(f"columns[{number}]: a bound", value, optional=False)
            if any(low > high for low, high in zip(box[::2], box[1::2], strict=True)):
                raise ValueError(f"columns[{number}] is {box!r}, a lower bound is above its upper bound")
        object.__setattr__(self, "columns", tuple(tuple(box) for box in self.columns))

    def column_tiles(self, tiling: Tiling) -> Tensor:
        """Key tiles that meet a column, bool (key_tiles,)."""
        sizes = torch.tensor(tiling.grid.shape)
        bounds = torch.tensor(self.columns, dtype=torch.float64).view(-1, 3, 2)  # (boxes, axes, ends)
        low, high = (bounds * sizes[:, None]).long().minimum(sizes[:, None] - 1).unbind(-1)
        first, last = tiling.key_boxes[:, None].unbind(-1)  # (key_tiles, 1, axes)
        return ((first <= high) & (last >= low)).all(-1).any(-1)

    def tile_mask(self, tiling: Tiling) -> Tensor:
        """The same key tiles for every query tile, and the own ones."""
        return tiling.with_own(self.column_tiles(tiling).repeat(tiling.query_tiles, 1))

    def describe(self) -> str:
        """For example `vertical stripe, 2 columns`."""
        count = len(self.columns)
        return f"vertical stripe, {count} column{'s' if count != 1 else ''}"
