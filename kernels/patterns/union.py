"""Union: what any of its parts attends. Own frame and own place through all frames together are the commonest one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..tiling import Tiling
from .base import Pattern
from .diagonal import Diagonal
from .multi_diagonal import MultiDiagonal
from .vertical_stripe import VerticalStripe

MAX_PARTS = 4


@dataclass(frozen=True)
class Union(Pattern):
    """Two to four windows or stripes, all bound to this pattern's token order; their own orders must be the same.

    Raises:
        ValueError: too few or too many parts, or one that is no diagonal, multi-diagonal or vertical stripe.
    """

    kind: ClassVar[str] = "union"
    parts: tuple[Pattern, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.parts, (list, tuple)) or not 2 <= len(self.parts) <= MAX_PARTS:
            raise ValueError(f"parts is {self.parts!r}, expected 2 to {MAX_PARTS} patterns")
        for number, part in enumerate(self.parts):
            if not isinstance(part, (Diagonal, MultiDiagonal, VerticalStripe)):
                raise ValueError(f"parts[{number}] is {part!r}, expected a diagonal, multi_diagonal or vertical_stripe")
            if part.order != self.order:
                raise ValueError(f"parts[{number}] has order {part.order!r}, expected the union's, {self.order!r}")
        object.__setattr__(self, "parts", tuple(self.parts))

    @property
    def rules(self) -> int:
        """One for each part."""
        return len(self.parts)

    def tile_mask(self, tiling: Tiling) -> Tensor:
        """Tiles of any part."""
        first, *others = (part.tile_mask(tiling) for part in self.parts)
        for mask in others:
            first = first | mask
        return first

    def to_dict(self) -> dict:
        """JSON form, parts in theirs."""
        return {"kind": self.kind, "order": self.order, "parts": [part.to_dict() for part in self.parts]}

    def describe(self) -> str:
        """The parts in words, one after the other."""
        return "; with ".join(part.describe() for part in self.parts)
