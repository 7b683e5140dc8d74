"""Skip (M1 of Sparse-vDiT): the head's output is zero for the video and costs nothing. Where there is text, the rows
of the text and of the video's ragged end stay dense, as for every kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..tiling import Tiling
from .base import Pattern


@dataclass(frozen=True)
class Skip(Pattern):
    """No attention at all."""

    kind: ClassVar[str] = "skip"
    rules: ClassVar[int] = 0

    def tile_mask(self, tiling: Tiling) -> Tensor:
        """No tiles."""
        return torch.zeros(tiling.query_tiles, tiling.key_tiles, dtype=torch.bool)
