"""A plan bound to a model and a token grid: ready-made tile lists per band and layer."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache

import torch

from ...kernels.grid import TokenGrid
from ...kernels.lists import MAX_RUN_TILE_PAIRS, TileListBuilder, TileLists, check_work
from ...kernels.tiling import KEY_TILE, QUERY_TILE
from .plan import Plan, mean_density

KEPT_GRIDS = 4  # context windows alternate between two or three lengths; older grids are rebuilt when they return
FAR = 2.0  # of an axis
FAR_DENSITY = 1.5

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
            while len({kept for kept, _ in self._kept}) > KEPT_GRIDS:  # on however many devices
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def mismatch(self, family: str, layers: int, heads: int, head_dim: int) -> str | None:
        """Why the plan does not fit a model, as words after "it is"; None when it does."""
        wanted = {"family": family, "layers": layers, "heads": heads, "head_dim": head_dim}
        for name, value in wanted.items():
            ours = getattr(self.plan, name)
            if ours != value:
                return f"for a model with {name} {ours}, this one has {name} {value}"
        return None

    def distance_warning(self, grid: TokenGrid, device: torch.device | str = "cpu") -> str | None:
        """A warning when an axis is over FAR times the measured one, or the density FAR_DENSITY times, or under that
        part; such a plan still runs."""
        if grid.shape == self.plan.grid:
            return None
        lists, table = self.lists(grid, device)
        own = mean_density(self._own_densities(), (band.heads for band in self.plan.bands))
        here = mean_density(lists.densities, table)
        axes = zip(("frames", "height", "width"), self.plan.grid, grid.shape, strict=True)
        far = [name for name, measured, size in axes if not measured / FAR <= size <= measured * FAR]
        if not own / FAR_DENSITY <= here <= own * FAR_DENSITY:
            far.append("density")
        if not far:
            return None
        measured = f"{self.measured_on()} tokens at density {own:.2f}"
        return (
            f"the plan was measured on {measured}, this video has {grid} tokens, where its density is {here:.2f}: "
            f"{' and '.join(far)} {'is' if len(far) == 1 else 'are'} far off, profile at this size"
        )

    def too_small(self, grid: TokenGrid, band: int, layer: int) -> str | None:
        """Why all heads of a layer, dense on a grid, are not so where the plan was measured; None where they are."""
        own = self._own_densities()
        if all(own[number] >= 1 for number in self.plan.bands[band].heads[layer]):
            return None
        return f"{grid} tokens are too few for patterns that were measured on {self.measured_on()} tokens"

    def measured_on(self) -> str:
        """The plan's own grid in words."""
        return "x".join(map(str, self.plan.grid))

    def _own_densities(self) -> dict[int, float]:
        return own_densities(self.plan, self.query_tile, self.key_tile)

    def _build(self, grid: TokenGrid, device: torch.device | str) -> tuple[TileLists, Table]:
        used = sorted({number for band in self.plan.bands for row in band.heads for number in row})
        patterns = [self.plan.patterns[number] for number in used]
        check_work(patterns, grid.video_tokens, self.query_tile, self.key_tile, MAX_RUN_TILE_PAIRS)
        builder = TileListBuilder(grid, self.query_tile, self.key_tile)
        lists = {number: builder.add(pattern) for number, pattern in zip(used, patterns, strict=True)}
        table = tuple(tuple(tuple(lists[number] for number in row) for row in band.heads) for band in self.plan.bands)
        return builder.build().to(device), table


@lru_cache(maxsize=8)
def own_densities(plan: Plan, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE) -> dict[int, float]:
    """Of each pattern in use on the plan's own grid: seconds on a large one, so it is kept from run to run."""
    return plan.pattern_densities(None, query_tile, key_tile)
