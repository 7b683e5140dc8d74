"""Stripes whose columns a profile finds: the places that all queries of a head look at.

While a profile is measured, the softmax mass on the keys is summed up by cells, equal parts of the video. A
`ProfiledStripe` stands for the best of them among the candidates of a search; in a plan it is a `VerticalStripe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.lists import tile_density
from ...kernels.patterns import Pattern, VerticalStripe, pattern_from_dict
from ...kernels.patterns.base import check_fraction
from ...kernels.patterns.vertical_stripe import MAX_BOXES
from ...kernels.tiling import Tiling

MAX_CELLS = 8  # of each axis
STRIPE_SHARES = (0.03, 0.06, 0.12)
_DIGITS = 6  # of a column's bounds


def _bounds(size: int, count: int, cell: int) -> tuple[float, float]:
    """Fractions of an axis that hold just the tokens of a cell: within the first and the last of them."""
    first, after = -(-cell * size // count), -(-(cell + 1) * size // count)
    return round((first + 0.1) / size, _DIGITS), round((after - 0.5) / size, _DIGITS)


def cell_grid(grid: tuple[int, int, int]) -> tuple[int, int, int]:
    """Cells of a video of (frames, height, width) tokens, by axis."""
    frames, height, width = (min(size, MAX_CELLS) for size in grid)
    return frames, height, width


@dataclass(frozen=True)
class ProfiledStripe(Pattern):
    """The cells of a head's largest softmax mass, as many as meet at most `share` of the key tiles, and at least one.

    Raises:
        ValueError: a share that is no number above 0 and up to 1.
    """

    kind: ClassVar[str] = "profiled_stripe"
    share: float = STRIPE_SHARES[0]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("share", self.share, optional=False)
        if self.share == 0:
            raise ValueError("share is 0, expected a number above 0 and up to 1")

    def tile_mask(self, tiling: Tiling) -> Tensor:
        """There is none without a head's profile.

        Raises:
            ValueError: always.
        """
        raise ValueError("a profiled stripe has no tiles of its own: `Cells.stripe` gives those of a head")

    def describe(self) -> str:
        """Kind and share."""
        return f"vertical stripe, best {self.share:g} of the columns"


def candidate_from_dict(data: object) -> Pattern:
    """Candidate of a search from its JSON form: a pattern, or a profiled stripe.

    Raises:
        ValueError: neither.
    """
    if isinstance(data, Mapping) and data.get("kind") == ProfiledStripe.kind:
        if data.keys() != {"kind", "share", "order"}:
            raise ValueError(f"{ProfiledStripe.kind} has {', '.join(sorted(data))}, expected kind, share and order")
        return ProfiledStripe(data["share"], order=data["order"])
    return pattern_from_dict(data)


class Cells:
    """The cells of one video, and which key tiles each of them meets.

    Args:
        tiling: in the token order of stripes.
    """

    def __init__(self, tiling: Tiling):
        self.tiling = tiling
        self.shape = cell_grid(tiling.grid.shape)

    @cached_property
    def boxes(self) -> list[tuple[float, float, float, float, float, float]]:
        """Each cell as a column of `VerticalStripe`."""
        sizes = zip(self.tiling.grid.shape, self.shape, strict=True)
        bounds = [[_bounds(size, count, cell) for cell in range(count)] for size, count in sizes]
        return [(*t, *h, *w) for t in bounds[0] for h in bounds[1] for w in bounds[2]]

    @cached_property
    def of_key(self) -> Tensor:
        """Cell of each video token in the sequence's own order, int64 (video tokens,)."""
        sizes = zip(self.tiling.grid.shape, self.shape, strict=True)
        axes = [torch.arange(size) * count // size for size, count in sizes]
        t, h, w = torch.meshgrid(*axes, indexing="ij")
        return ((t * self.shape[1] + h) * self.shape[2] + w).flatten()

    @cached_property
    def meets(self) -> Tensor:
        """Key tiles that a cell meets, bool (cells, key_tiles)."""
        return torch.stack([VerticalStripe((box,)).column_tiles(self.tiling) for box in self.boxes])

    def mass(self, weights: Tensor) -> Tensor:
        """Softmax mass (rows, S) of all rows by cell, float32 (cells,)."""
        first = self.tiling.grid.prefix
        keys = weights[:, first : first + len(self.of_key)].sum(0)
        return keys.new_zeros(len(self.boxes)).index_add_(0, self.of_key, keys)

    def to(self, device: torch.device) -> Cells:
        """The same cells for masses on a device."""
        moved = Cells(self.tiling)
        moved.boxes, moved.of_key, moved.meets = self.boxes, self.of_key.to(device), self.meets.to(device)
        return moved

    def _best(self, mass: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Cells of the largest mass, and which of them, from the first on, together meet at most a share of the key
        tiles; at least one. Does not wait for the device."""
        ranked = mass.argsort(descending=True, stable=True)[:MAX_BOXES]
        chosen = self.meets[ranked].cumsum(0).bool().sum(1) <= share * self.tiling.key_tiles
        chosen[0] = True
        return ranked, chosen

    def density(self, share: float) -> float:
        """The largest density that a stripe of a share may have, with the own tile and all that is always dense."""
        tiling = self.tiling
        columns = max(int(share * tiling.key_tiles), int(self.meets.sum(1).max()))
        own = tiling.query_tile // tiling.key_tile
        return tile_density(tiling, min(columns + own, tiling.key_tiles) * tiling.query_tiles)

    def tiles(self, mass: Tensor, share: float) -> Tensor:
        """Key tiles that the best cells meet, bool (key_tiles,)."""
        ranked, chosen = self._best(mass, share)
        return (self.meets[ranked] & chosen[:, None]).any(0)

    def stripe(self, mass: Tensor, share: float) -> VerticalStripe:
        """The stripe of a head with this mass (cells,)."""
        ranked, chosen = self._best(mass, share)
        return VerticalStripe(tuple(self.boxes[cell] for cell in sorted(ranked[chosen].tolist())))
