"""Diagonal (M2 of Sparse-vDiT): tokens of the own and neighbouring frames, a band in raster order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..tiling import Tiling
from .base import Pattern, check_count, check_fraction
from .window import Reach, half_width_tokens, window_tile_mask

MAX_FRAMES = 10_000


@dataclass(frozen=True)
class Diagonal(Pattern):
    """Own frame +-`frames` frames; within them +-`height`, +-`width` (fractions of a frame), None for all of it.

    `shift` moves the frames: -1 with `frames` 0 is the frame before the own one (and, as always, the own tile).
    """

    kind: ClassVar[str] = "diagonal"
    added: ClassVar[frozenset[str]] = frozenset({"shift"})
    frames: int = 0
    height: float | None = None
    width: float | None = None
    shift: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("frames", self.frames, MAX_FRAMES)
        check_fraction("height", self.height)
        check_fraction("width", self.width)
        check_count("shift", self.shift, MAX_FRAMES, least=-MAX_FRAMES)

    def tile_mask(self, tiling: Tiling) -> Tensor:
        """Tiles within the frames and, when given, the part of the frame."""
        _, rows, columns = tiling.grid.shape
        height, width = half_width_tokens(self.height, rows), half_width_tokens(self.width, columns)
        return window_tile_mask(tiling, (Reach(self.frames, self.shift), Reach(height), Reach(width)))

    def describe(self) -> str:
        """For example `diagonal, own frame +-1`."""
        sides = (("height", self.height), ("width", self.width))
        part = "".join(f", {name} +-{value:.0%}" for name, value in sides if value is not None)
        centre = f"frame {self.shift:+d} from the own" if self.shift else "own frame"
        return f"diagonal, {centre} +-{self.frames}{part}"
