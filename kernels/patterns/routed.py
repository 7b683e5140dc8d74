"""Routed: the head keeps, for each query tile, the key tiles whose mean key its mean query likes best.

Chosen anew at every call (`kernels/routing.py`), for heads whose places depend on what is shown; how many is the plan's
choice. The same rule as VSA (arXiv 2505.13389) and SLA's top-k.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ..order import SPATIOTEMPORAL
from ..tiling import Tiling
from .base import Pattern, check_fraction


@dataclass(frozen=True)
class Routed(Pattern):
    """The best `share` of all key tiles, at least one.

    Raises:
        ValueError: a share that is no number above 0 and up to 1.
    """

    kind: ClassVar[str] = "routed"
    rules: ClassVar[int] = 0
    share: float = 0.2
    order: str = field(default=SPATIOTEMPORAL, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("share", self.share, optional=False)
        if self.share == 0:
            raise ValueError("share is 0, expected a number above 0 and up to 1; a head without keys is kind skip")

    def kept_tiles(self, tiling: Tiling) -> int:
        """Key tiles that each query tile keeps."""
        return min(tiling.key_tiles, max(1, round(self.share * tiling.key_tiles)))

    def tile_mask(self, tiling: Tiling) -> Tensor:
        """There is none without queries and keys.

        Raises:
            ValueError: always.
        """
        raise ValueError("a routed head has no tiles of its own: they are chosen from queries and keys at each call")

    def describe(self) -> str:
        """Kind and share."""
        return f"routed {self.share:g}"
