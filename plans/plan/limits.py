"""How sparse a plan may become that is found for a model of which something is known already."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.tiling import KEY_TILE, QUERY_TILE
from .plan import Plan

HEAD_PART = 0.5
"""Of a head's density in a shipped plan, below which no pattern is taken that a few dense steps make look good: those
densities are of all steps, but patterns of windows may well need fewer tiles than chosen ones."""


@dataclass(frozen=True)
class Limits:
    """Least densities.

    Attributes:
        mean: over all heads.
        heads: of each head, float64 (layers, heads); 1 keeps it dense.
    """

    mean: float
    heads: Tensor


def limits_of(plan: Plan, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE) -> Limits | None:
    """What a shipped plan that is to be completed allows; None where it has no card, and so does not ask for it.

    Heads of several bands count by their sparsest one, as what is measured may be of any of them.
    """
    if plan.card is None:
        return None
    heads = torch.zeros(plan.layers, plan.heads, dtype=torch.float64)
    if plan.grade == "prior":
        densities = plan.pattern_densities(None, query_tile, key_tile)
        by_band = [[[densities[number] for number in row] for row in band.heads] for band in plan.bands]
        heads = HEAD_PART * torch.tensor(by_band, dtype=torch.float64).amin(0)
    for place in plan.card.kept_dense:
        heads[place] = 1.0
    return Limits(plan.card.least_density, heads)
