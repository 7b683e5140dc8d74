"""What attention costs: one head in one call, by a table of measured times or by counting operations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.patterns import Dense, Pattern, Routed
from ...kernels.tiling import KEY_TILE, QUERY_TILE
from ..plan.plan import Plan
from ..profile.profile import ProfileHeader
from .latency import Latencies, head_milliseconds

NO_ATTENTION = 1e6  # times as fast: every head is skipped
FLOP_MODEL = "by a FLOP model"


@dataclass(frozen=True)
class HeadCosts:
    """Cost of one head in one call, all in one unit.

    Attributes:
        candidates: of each candidate, float64 (candidates,).
        dense: of a head of the model's own attention.
        times: how they are known, in words.
    """

    candidates: Tensor
    dense: float
    times: str

    @property
    def relative(self) -> Tensor:
        """Of each candidate, 1 being the model's own attention: (candidates,)."""
        return self.candidates / self.dense

    def speedup(self, choice: Tensor) -> float:
        """How many times as fast as the model's own attention a choice (bands, layers, heads) computes it; a layer that
        sparse attention makes no faster is left to the model's own, as a run does."""
        layers = self.relative[choice].mean(-1).clamp_max(1)
        return 1 / max(layers.mean().item(), 1e-9)


def flop_costs(
    patterns: Sequence[Pattern],
    densities: Sequence[float],
    tokens: int,
    head_dim: int,
    query_tile: int = QUERY_TILE,
    key_tile: int = KEY_TILE,
) -> HeadCosts:
    """Costs in FLOPs: 4 S^2 D a head for the kept share of both products; for a routed head also the means of its tiles
    and their products, which choose the tiles."""
    full = 4.0 * tokens**2 * head_dim
    routing = 2.0 * head_dim * (tokens + (tokens // query_tile) * (tokens // key_tile))
    costs = [
        full * density + (routing if isinstance(pattern, Routed) else 0.0)
        for pattern, density in zip(patterns, densities, strict=True)
    ]
    return HeadCosts(torch.tensor(costs, dtype=torch.float64), full, FLOP_MODEL)


def profile_costs(header: ProfileHeader, latencies: Latencies | None = None) -> HeadCosts:
    """Costs of a profile's candidates, by a FLOP model where nothing was measured."""
    if latencies is None:
        tiles = header.query_tile, header.key_tile
        return flop_costs(header.candidates, header.densities, math.prod(header.grid), header.head_dim, *tiles)
    times = [
        _candidate_milliseconds(pattern, density, latencies)
        for pattern, density in zip(header.candidates, header.densities, strict=True)
    ]
    return HeadCosts(torch.tensor(times, dtype=torch.float64), latencies.dense, f"measured on {latencies.device}")


def _candidate_milliseconds(pattern: Pattern, density: float, latencies: Latencies) -> float:
    """Of one head, at the size that was measured: the ratio to dense attention counts, and hardly hangs on it."""
    own = head_milliseconds(pattern, density, latencies)
    # alone it is the model's own attention, beside sparse heads a row of all tiles
    return max(latencies.dense, own) if isinstance(pattern, Dense) else own


def head_costs(plan: Plan, densities: Mapping[int, float] | None = None) -> HeadCosts:
    """Costs of a plan's patterns by a FLOP model, from the density of each that a head uses (`pattern_densities`)."""
    densities = plan.pattern_densities() if densities is None else densities
    every = [densities.get(number, 1.0) for number in range(len(plan.patterns))]
    return flop_costs(plan.patterns, every, math.prod(plan.grid), plan.head_dim)


def plan_speedup(plan: Plan, densities: Mapping[int, float] | None = None) -> tuple[float, str]:
    """Expected speed-up of attention, as the plan says, else by a FLOP model, and how it is known."""
    expected, times = (plan.provenance.parameters.get(name) for name in ("attention_speedup", "times"))
    if isinstance(expected, int | float) and expected > 0 and isinstance(times, str):
        return float(expected), times
    costs = head_costs(plan, densities)
    return costs.speedup(torch.tensor([band.heads for band in plan.bands])), costs.times


def attention_share(plan: Plan) -> float:
    """Attention's share of a step's FLOPs on the plan's grid, an estimate: 4 S^2 d a layer beside 24 S d^2 of all its
    linear maps, as in a block with a four times wider middle; d = heads * head_dim."""
    tokens, width = math.prod(plan.grid), plan.heads * plan.head_dim
    return tokens / (tokens + 6 * width)


def step_speedup(plan: Plan) -> float:
    """Expected speed-up of a whole step that the plan covers, by `plan_speedup` and `attention_share`."""
    share = attention_share(plan)
    return 1 / (1 - share + share / plan_speedup(plan)[0])
