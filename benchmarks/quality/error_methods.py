"""What `calibrated_heads.py` compares: attention methods on one layer of made heads, each density searched for anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.patterns import Dense, Routed
from sparse_vdit.plans.profile.candidates import default_candidates
from sparse_vdit.plans.profile.profile import Profile
from sparse_vdit.plans.profile.profiler import Profiler
from sparse_vdit.plans.search.search import search_budget
from torch import Tensor

from benchmarks.kernels.kernel_cases import SAMPLED_ROWS, Case
from benchmarks.kernels.kernel_methods import EXTRA_TOKENS, METHODS, Method, ours, sol
from benchmarks.kernels.kernel_shapes import Shape

TAUS = (1.0, 1.3)
ROWS = 256  # of queries that the search goes by

DENSE = ("sdpa", "sdpa_cudnn", "sdpa_flash", "fa3", "kitchen_int8", "sage")
BY_DENSITY = ("ours_bf16", "ours_int8", "ours_routed", "kitchen_sol_topk", "kitchen_sol_topk_bricks")
CHOSEN: dict[str, Method] = {name: METHODS[name] for name in (*DENSE, *BY_DENSITY)}
CHOSEN["kitchen_sol_topk_extra"] = sol(bricks=False, extra=EXTRA_TOKENS)
CHOSEN |= {  # as ComfyUI's node calls it
    f"kitchen_sol_{tau}{'_bricks' * bricks}": sol(bricks, tau, EXTRA_TOKENS) for tau in TAUS for bricks in (False, True)
}
ON_CPU: dict[str, Method] = {
    "sdpa": METHODS["sdpa"], "ours_torch": METHODS["ours_torch"],
    "ours_torch_routed": ours("torch", "routed"),
}  # fmt: skip
ONCE = (*DENSE, *(name for name in CHOSEN if name.startswith("kitchen_sol_1")))
"""Methods that no density is asked of."""


@dataclass(frozen=True)
class AllHeads(Case):
    """A case whose errors are of all heads, as heads differ."""

    @cached_property
    def sample(self) -> tuple[Tensor, Tensor]:
        """All heads, and positions of queries spread evenly."""
        tokens, heads = self.q.shape[1:3]
        rows = torch.linspace(0, tokens - 1, min(tokens, SAMPLED_ROWS)).round().long()
        return torch.arange(heads, device=self.q.device), rows.to(self.q.device)


def profiled(shape: Shape, q: Tensor, k: Tensor, v: Tensor) -> Profile:
    """What every candidate of the search does to every head of one layer."""
    profiler = Profiler(
        "calibrated_heads", "made", 1, shape.heads, shape.head_dim, default_candidates(), [(1.0, 0.0)], rows=ROWS
    )
    profiler.observe(0, 0.5, q, k, v, shape.grid, None)
    return profiler.profile()


def make_cases(shape: Shape, qkv: tuple[Tensor, Tensor, Tensor], wanted: Sequence[float]) -> dict[float, Case]:
    """A case for each density, the lists of its heads those of the plan that the search finds for it.

    Raises:
        SearchError: no plan has a density.
    """
    profile, builder = profiled(shape, *qkv), TileListBuilder(shape.grid)
    dense, rows, routed = builder.add(Dense()), {}, {}
    for density in wanted:
        plan = search_budget(profile, density=density)
        rows[density] = tuple(builder.add(plan.pattern(0, 0, head)) for head in range(shape.heads))
        routed[density] = builder.add(Routed(density))
    lists = builder.build().to(qkv[0].device)
    return {density: AllHeads(*qkv, lists, rows[density], routed[density], dense) for density in wanted}
