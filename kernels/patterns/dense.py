"""Dense (M0 of Sparse-vDiT): every query attends every key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..tiling import Tiling
from .base import Pattern


@dataclass(frozen=True)
class Dense(Pattern):
    """Full attention."""

    kind: ClassVar[str] = "dense"

    def tile_mask(self, tiling: Tiling) -> Tensor:
        """All tiles."""
        return torch.ones(tiling.query_tiles, tiling.key_tiles, dtype=torch.bool)
