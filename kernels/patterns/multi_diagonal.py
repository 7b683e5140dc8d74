"""Multi-diagonal (M3 of Sparse-vDiT): the same place in every frame, evenly spaced diagonals in raster order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ..order import DEEP
from ..tiling import Tiling
from .base import Pattern, check_fraction
from .window import half_width_tokens, window_tile_mask


@dataclass(frozen=True)
class MultiDiagonal(Pattern):
    """Own place +-`height`, +-`width` (fractions of a frame; None for no limit on one of them) in all frames."""

    kind: ClassVar[str] = "multi_diagonal"
    height: float | None = 0.0
    width: float | None = 0.0
    order: str = field(default=DEEP, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("height", self.height)
        check_fraction("width", self.width)
        if self.height is None and self.width is None:
            raise ValueError("height and width are both null, expected a limit on one of them; dense has none")

    def tile_mask(self, tiling: Tiling) -> Tensor:
        """Tiles near the own place in every frame."""
        _, rows, columns = tiling.grid.shape
        return window_tile_mask(
            tiling, (None, half_width_tokens(self.height, rows), half_width_tokens(self.width, columns))
        )

    def describe(self) -> str:
        """For example `multi-diagonal, height +-10%, whole width`."""
        sides = (("height", self.height), ("width", self.width))
        return "multi-diagonal, " + ", ".join(
            f"whole {name}" if value is None else f"{name} +-{value:.0%}" for name, value in sides
        )
