"""Skip (M1 of Sparse-vDiT): the head's output is zero, for text rows as well, and costs nothing."""

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

    def tile_mask(self, tiling: Tiling) -> Tensor:
        """No tiles."""
        return torch.zeros(tiling.query_tiles, tiling.key_tiles, dtype=torch.bool)
