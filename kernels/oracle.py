"""The truth every backend is tested against: softmax attention under an explicit mask, in fp64, one S x S matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .call import AttentionCall
from .grid import TokenGrid
from .patterns import Pattern
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
    return masked_attention(q, k, v, [sequence_mask(pattern, grid, query_tile, key_tile) for pattern in patterns])


def call_attention(call: AttentionCall) -> Tensor:
    """What a call must give, from its tile lists and key bias, one S x S matrix per head: (B, S, H, D) fp64. `int8`
    is a way to compute and not part of the truth.
    """
    out = torch.zeros(call.q.shape, dtype=torch.float64)
    for pair, number in enumerate(call.pair_lists):
        batch, head = divmod(pair, call.q.shape[2])
        bias = None if call.key_bias is None else call.key_bias[batch]
        out[batch, :, head] = _one_head(call, number, *(x[batch, :, head] for x in (call.q, call.k, call.v)), bias)
    return out


def _one_head(call: AttentionCall, number: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    lists = call.lists
    index = lists.index[lists.orders[number]].long()
    q, k, v = (x[index].double() for x in (q, k, v))
    tiles = lists.grid.video_tokens // lists.key_tile
    kept = torch.zeros(lists.starts.shape[1], tiles, dtype=torch.bool)
    for row, (start, count) in enumerate(zip(lists.starts[number], lists.kv_num_blocks[number], strict=True)):
        kept[row, lists.kv_indices[start : start + max(0, count)].long()] = True
    row_of = (torch.arange(len(q)) // lists.query_tile).clamp_max(len(kept) - 1)  # of every query
    kept, skipped = kept[row_of], lists.kv_num_blocks[number][row_of] < 0
    scores = q @ k.T * q.shape[-1] ** -0.5
    scores[:, : tiles * lists.key_tile].masked_fill_(~kept.repeat_interleave(lists.key_tile, 1), -torch.inf)
    if bias is not None:
        scores[:, lists.grid.video_tokens :] += bias.double()
    out = torch.empty_like(q)
    out[index] = (scores.softmax(1) @ v).masked_fill(skipped[:, None], 0.0)
    return out
