"""What runs are made of, for tests: an engine with one pattern for all heads, and q, k, v of its grid."""

from __future__ import annotations

import torch
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.plans.plan.plan import uniform_plan

GRID = (5, 8, 11)
TOKENS = 5 * 8 * 11


def engine(
    pattern: object, start: float = 1.0, end: float = 0.0, layers: int = 4, backend: str = "torch"
) -> PlanEngine:
    return PlanEngine(uniform_plan("wan", layers, 3, 128, GRID, pattern), start, end, backend)


def qkv(batch: int = 2, tokens: int = TOKENS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(batch, tokens, 384, generator=generator) for _ in range(3)]
