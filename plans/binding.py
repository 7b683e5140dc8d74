"""A plan bound to a model and a token grid: ready-made tile lists per band and layer."""

from __future__ import annotations

from collections import OrderedDict

import torch

from ..kernels.grid import TokenGrid
from ..kernels.lists import TileListBuilder, TileLists
from ..kernels.tiling import KEY_TILE, QUERY_TILE
from .plan import Plan

KEPT_GRIDS = 4  # context windows alternate between two or three lengths; older grids are rebuilt when they return
FAR = 2.0

Table = tuple[tuple[tuple[int, ...], ...], ...]


class BoundPlan:
    """Tile lists of a plan for the grids of one run."""

    def __init__(self, plan: Plan, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE):
        self.plan, self.query_tile, self.key_tile = plan, query_tile, key_tile
        self._kept: OrderedDict[tuple[TokenGrid, str], tuple[TileLists, Table]] = OrderedDict()

    def lists(self, grid: TokenGrid, device: torch.device | str) -> tuple[TileLists, Table]:
        """Lists on a device and table[band][layer] = one list number per head; made once per grid and device."""
        key = (grid, str(device))
        if key not in self._kept:
            self._kept[key] = self._build(grid, device)
            while len(self._kept) > KEPT_GRIDS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def ready(self, grid: TokenGrid, device: torch.device | str) -> bool:
        """Whether the lists for a grid and device are there already."""
        return (grid, str(device)) in self._kept

    def mismatch(self, family: str, layers: int, heads: int, head_dim: int) -> str | None:
        """Why the plan does not fit a model, in words; None when it does."""
        wanted = {"family": family, "layers": layers, "heads": heads, "head_dim": head_dim}
        for name, value in wanted.items():
            ours = getattr(self.plan, name)
            if ours != value:
                return f"the plan is for {name} {ours}, this model has {name} {value}"
        return None

    def distance_warning(self, grid: TokenGrid) -> str | None:
        """A warning when an axis is over twice or under half the measured one; such a plan still runs."""
        for name, measured, size in zip(("frames", "height", "width"), self.plan.grid, grid.shape, strict=True):
            if not 1 / FAR <= size / measured <= FAR:
                shape = "x".join(map(str, self.plan.grid))
                return f"the plan was measured on {shape} tokens, this video has {grid}: {name} is far from it"
        return None

    def _build(self, grid: TokenGrid, device: torch.device | str) -> tuple[TileLists, Table]:
        builder = TileListBuilder(grid, self.query_tile, self.key_tile)
        used = sorted({number for band in self.plan.bands for row in band.heads for number in row})
        lists = {number: builder.add(self.plan.patterns[number]) for number in used}
        table = tuple(tuple(tuple(lists[number] for number in row) for row in band.heads) for band in self.plan.bands)
        return builder.build().to(device), table
