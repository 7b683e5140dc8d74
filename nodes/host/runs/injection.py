"""Sparse attention in some layers of one forward of a profiling run, and the error that it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....kernels.attention import sparse_attention
from ....kernels.grid import TokenGrid
from ....plans.plan.binding import BoundPlan
from ....plans.plan.plan import Plan
from ....plans.profile.errors import CandidateJudge
from ....plans.profile.profile import one_band
from ....plans.profile.profiler import Profiler
from ....plans.search.search import search_budget
from ..reports import reasons
from .engine import Call
from .free_memory import free_memory

PRESET = "fast"  # whose patterns are injected: a density might be out of reach on a small video


class Injection:
    """Runs a plan in some layers, and judges it on the calls that it gets.

    Args:
        plan: of one band.
        gram: W_O^T W_O of each head, for a call.
        rows: of each head, on which errors are judged.

    Attributes:
        layers: where attention is sparse.
        error: sum of ||W_O dO||^2 over the heads of the layers that have run.
    """

    def __init__(self, plan: Plan, gram: Callable[[Call], Tensor], rows: int, tiles: dict[str, int]):
        self.plan, self.gram, self.rows, self.tiles = plan, gram, rows, tiles
        self.bound = BoundPlan(plan, **tiles)
        self.layers, self.error = range(0), 0.0
        self._judges: dict[TokenGrid, CandidateJudge] = {}

    def begin(self, layers: range) -> None:
        """The next forward is sparse in these layers."""
        self.layers, self.error = layers, 0.0

    def attention(self, call: Call) -> Tensor | str:
        """Output (B, S, H, D) of a call, or the reason to compute it dense."""
        if call.layer not in self.layers:
            return reasons.PROFILING
        grid, numbers = TokenGrid(*call.layout), self.plan.bands[0].heads[call.layer]
        if grid not in self._judges:
            self._judges[grid] = CandidateJudge(grid, self.plan.patterns, self.rows, **self.tiles)
        generator = torch.Generator().manual_seed(call.layer)
        free = free_memory(call.q.device)
        errors = self._judges[grid].errors(call.q, call.k, call.v, self.gram(call), generator, free=free)
        self.error += errors.projected[torch.arange(len(numbers)), list(numbers)].sum().item()
        lists, table = self.bound.lists(grid, call.q.device)
        return sparse_attention(call.q, call.k, call.v, lists, table[0][call.layer])


def begin_injection(profiler: Profiler, band: int, gram: Callable[[Call], Tensor]) -> Injection:
    """Of the patterns that a search would choose for a band from what was measured in it so far.

    Raises:
        SearchError: not every layer was.
    """
    plan = search_budget(one_band(profiler.own_profile(), band), preset=PRESET, weights=torch.ones(1))
    return Injection(plan, gram, profiler.rows, profiler.tiles)
