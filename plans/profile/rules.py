"""The paper's rule for one head: Eq. 2 and 3 of Sparse-vDiT (arXiv 2506.03065, section on the search)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels.patterns import Pattern

DEFAULT_LAMBDA = 0.5
DEFAULT_EPSILON = 1.0
MAX_DENSITY = 0.97  # windows as large as a short video are dense in disguise: no gain, and a misleading name
PAPER_KINDS = ("dense", "skip", "diagonal", "multi_diagonal", "vertical_stripe")


def paper_kinds(candidates: Sequence[Pattern]) -> Tensor:
    """Which candidates the paper's rule chooses from: its own five kinds, none shifted or repeated, (candidates,)."""
    return torch.tensor([pattern.kind in PAPER_KINDS and not _has_more(pattern) for pattern in candidates])


def _has_more(pattern: Pattern) -> bool:
    """Whether parameters are in use that the paper's patterns do not have."""
    return any(getattr(pattern, name) != getattr(type(pattern), name) for name in pattern.added)


def saving(densities: Tensor) -> Tensor:
    """Candidates that are dense, which is the first, or save something on their grid: bool, from (candidates,)."""
    useful = densities <= MAX_DENSITY
    useful[0] = True
    return useful


def paper_loss(mse: Tensor, densities: Tensor, lam: float) -> Tensor:
    """Eq. 2: L_i = MSE(O_i, O_0) + lambda (1 - S_i) with the sparsity S_i = 1 - density; raw MSE, last axis i.

    The paper's listing of Algorithm 1 prints lambda S_i, against its Eq. 2 and Figure 5; rewarding sparsity is meant.
    """
    return mse + lam * densities


def paper_choice(
    mse: Tensor, densities: Tensor, lam: float = DEFAULT_LAMBDA, epsilon: float = DEFAULT_EPSILON
) -> Tensor:
    """Eq. 3: number of each head's candidate, dense (0) where every other loss is above epsilon.

    Args:
        mse: (..., candidates), the first candidate dense.
        densities: (candidates,).
    """
    loss = paper_loss(mse, densities.to(mse), lam)[..., 1:]
    if not loss.shape[-1]:
        return torch.zeros(mse.shape[:-1], dtype=torch.int64)
    best = loss.min(-1)
    return torch.where(best.values > epsilon, 0, best.indices + 1)
