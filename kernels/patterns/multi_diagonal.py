"""Multi-diagonal (M3 of Sparse-vDiT): the same place in every frame, evenly spaced diagonals in raster order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ..order import SPATIOTEMPORAL
from ..tiling import Tiling
from .base import Pattern, check_count, check_fraction
from .window import WHOLE, Reach, half_width_tokens, period_tokens, window_tile_mask

MAX_FRAMES = 10_000


@dataclass(frozen=True)
class MultiDiagonal(Pattern):
    """Own place +-`height`, +-`width` (fractions of a frame; None for no limit on one of them) in all frames.

    With `every` n, in every n-th frame from the own one; with `height_period` or `width_period` (fractions of a frame)
    also in the places at whole multiples of it from the own one.
    """

    kind: ClassVar[str] = "multi_diagonal"
    added: ClassVar[frozenset[str]] = frozenset({"every", "height_period", "width_period"})
    height: float | None = 0.0
    width: float | None = 0.0
    every: int = 1
    height_period: float | None = None
    width_period: float | None = None
    order: str = field(default=SPATIOTEMPORAL, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("height", self.height)
        check_fraction("width", self.width)
        if self.height is None and self.width is None:
            raise ValueError("height and width are both null, expected a limit on one of them; dense has none")
        check_count("every", self.every, MAX_FRAMES, least=1)
        for name, half in (("height_period", self.height), ("width_period", self.width)):
            check_fraction(name, getattr(self, name))
            if getattr(self, name) == 0:
                raise ValueError(f"{name} is 0, expected null or a number above 0 and up to 1")
            if half is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but nothing is limited there: expected null")

    def tile_mask(self, tiling: Tiling) -> Tensor:
        """Tiles near the own place in every frame."""
        _, rows, columns = tiling.grid.shape
        frames = WHOLE if self.every == 1 else Reach(0, period=self.every)
        height = Reach(half_width_tokens(self.height, rows), period=period_tokens(self.height_period, rows))
        width = Reach(half_width_tokens(self.width, columns), period=period_tokens(self.width_period, columns))
        return window_tile_mask(tiling, (frames, height, width))

    def describe(self) -> str:
        """For example `multi-diagonal, height +-10%, whole width`."""
        sides = (("height", self.height, self.height_period), ("width", self.width, self.width_period))
        parts = []
        for name, value, period in sides:
            again = "" if period is None else f" every {period:.0%}"
            parts.append(f"whole {name}" if value is None else f"{name} +-{value:.0%}{again}")
        if self.every > 1:
            parts.append(f"every {self.every} frames")
        return "multi-diagonal, " + ", ".join(parts)
