"""The truth every backend is tested against: softmax attention under an explicit mask, in fp64, one S x S matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .grid import TokenGrid
from .patterns import Pattern, Skip
from .tiling import KEY_TILE, QUERY_TILE


def sequence_mask(pattern: Pattern, grid: TokenGrid, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE) -> Tensor:
    """Attended pairs in the model's own sequence order: bool (tokens, tokens)."""
    return pattern.draw(grid, query_tile, key_tile) > 0


def masked_attention(q: Tensor, k: Tensor, v: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + log mask) v per head; rows without any key give zero.

    Args:
        q, k, v: (B, S, H, D).
        masks: one bool (S, S) per head.

    Returns:
        (B, S, H, D) fp64.
    """
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~torch.stack(list(masks)), -torch.inf).softmax(-1).nan_to_num(0.0)
    return (weights @ v).transpose(1, 2)


def pattern_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    patterns: Sequence[Pattern],
    grid: TokenGrid,
    query_tile: int = QUERY_TILE,
    key_tile: int = KEY_TILE,
) -> Tensor:
    """What sparse attention with one pattern per head must give: (B, S, H, D) fp64."""
    masks = [
        torch.zeros(grid.tokens, grid.tokens, dtype=torch.bool)
        if isinstance(pattern, Skip)
        else sequence_mask(pattern, grid, query_tile, key_tile)
        for pattern in patterns
    ]
    return masked_attention(q, k, v, masks)
