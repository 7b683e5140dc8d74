"""From chosen candidates to a plan, with the columns that a profile found and with what to expect."""

from __future__ import annotations

import datetime
from functools import lru_cache

import torch
from torch import Tensor

from ...kernels.grid import TokenGrid
from ...kernels.patterns import Pattern
from ...kernels.tiling import Tiling
from ..plan.plan import Band, Plan, Provenance
from ..profile.columns import Cells, ProfiledStripe
from ..profile.profile import Profile
from .cost import HeadCosts, profile_costs


def plan_of(
    profile: Profile, bands: list[int], choice: Tensor, rule: str, parameters: dict, costs: HeadCosts | None = None
) -> Plan:
    """The plan of a choice (bands, layers, heads) of candidates, with only the patterns that are used.

    Args:
        bands: numbers of the profile's bands that the choice is for.
        parameters: of the rule, for the provenance.
        costs: of the candidates; by a FLOP model by default.
    """
    header = profile.header
    costs = costs or profile_costs(header)
    densities = torch.tensor(header.densities, dtype=torch.float64)
    found = [
        [[pattern_of(profile, (band, layer, head), number) for head, number in enumerate(row)]
         for layer, row in enumerate(table)]
        for band, table in zip(bands, choice.tolist(), strict=True)
    ]  # fmt: skip
    in_use = (pattern for table in found for row in table for pattern in row)
    numbers = dict(zip(in_use, choice.flatten().tolist(), strict=True))
    short = {pattern: position for position, pattern in enumerate(sorted(numbers, key=numbers.get))}
    tables = [tuple(tuple(short[pattern] for pattern in row) for row in table) for table in found]
    return Plan(
        family=header.family,
        layers=header.layers,
        heads=header.heads,
        head_dim=header.head_dim,
        grid=header.grid,
        patterns=tuple(short),
        bands=tuple(Band(*header.bands[band], table) for band, table in zip(bands, tables, strict=True)),
        grade="measured",
        provenance=Provenance(
            model=header.model,
            rule=rule,
            parameters={
                **parameters,
                "attention_speedup": round(costs.speedup(choice), 3),
                "times": costs.times,
                "mean_density": round(densities[choice].mean().item(), 4),
                "projected": "yes" if header.projected else "no",
                "query_tile": header.query_tile,
                "key_tile": header.key_tile,
                "candidates": len(header.candidates),
                "samples": int(profile.samples.sum()),
            },
            prompts=header.prompts,
            versions=dict(header.versions),
            date=datetime.date.today().isoformat(),
        ),
    )


def pattern_of(profile: Profile, place: tuple[int, int, int], number: int) -> Pattern:
    """The candidate of a head, its (band, layer, head) in a profile, as a plan has it: a stripe with its columns."""
    header = profile.header
    pattern = header.candidates[number]
    if not isinstance(pattern, ProfiledStripe):
        return pattern
    cells = _cells(header.grid, pattern.order, header.query_tile, header.key_tile)
    return cells.stripe(profile.columns[place], pattern.share)


@lru_cache(maxsize=2)
def _cells(grid: tuple[int, int, int], order: str, query_tile: int, key_tile: int) -> Cells:
    return Cells(Tiling(TokenGrid(*grid), order, query_tile, key_tile))
