"""Compares one query tile of each head with exact attention over the same listed keys, on the data of a real call."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from .call import AttentionCall
from .self_test import INT8_LIMIT, LIMITS

INT8_HEAD_LIMIT = 0.2
"""Of one head in 8 bits. Where scores are large, so is their rounding: the heads together have to keep INT8_LIMIT."""

KEYS_AT_ONCE = 8192

_picks = random.Random(5)


class WrongOutput(RuntimeError):  # noqa: N818 - what is wrong is the output
    """A kernel's output is further from exact attention than rounding explains."""


def spot_check(call: AttentionCall, out: Tensor) -> float:
    """Relative L2 error of an output on one random query tile of each head: of the worst head, in 8 bits of all.

    Heads whose exact output is not finite are left out. Waits for the device.

    Args:
        call: with chosen tiles (`routed_call`), whose output (B, S, H, D) is `out`.

    Raises:
        WrongOutput: the error of a head is above `LIMITS`; in 8 bits that of all heads above `INT8_LIMIT`, or that of
            one above `INT8_HEAD_LIMIT`.
    """
    sums = torch.stack([_pair_sums(call, out, pair) for pair in range(len(call.pair_lists))])
    worst = _relative(sums).max().item()
    if call.int8:
        error, limit = _relative(sums.sum(0, keepdim=True)).item(), INT8_LIMIT
        if not worst <= INT8_HEAD_LIMIT:  # true for NaN too
            error, limit = worst, INT8_HEAD_LIMIT
    else:
        error, limit = worst, LIMITS.get(out.dtype, min(LIMITS.values()))
    if not error <= limit:
        raise WrongOutput(f"its output is wrong on the model's own data: relative error {error:.1e}, limit {limit:.0e}")
    return error


def _relative(sums: Tensor) -> Tensor:
    return (sums[:, 0] / sums[:, 1].clamp_min(1e-30)).sqrt()


def _pair_sums(call: AttentionCall, out: Tensor, pair: int) -> Tensor:
    """||out - truth||^2 and ||truth||^2 on a random query tile of a (batch, head); zeros where that is not finite."""
    lists, number = call.lists, call.pair_lists[pair]
    batch, head = divmod(pair, call.q.shape[2])
    starts, kv_num_blocks = lists.rows(number)
    row = _picks.randrange(max(1, len(starts) - 1))
    index = lists.index[lists.order_numbers()[number]].long()
    queries = index[row * lists.query_tile : (row + 1) * lists.query_tile]
    got = out[batch, queries, head].float()
    if kv_num_blocks[row] < 0:
        truth = torch.zeros_like(got)
    else:
        tiles = lists.kv_indices[starts[row] : starts[row] + kv_num_blocks[row]].long()
        tiled = lists.grid.video_tokens // lists.key_tile * lists.key_tile
        keys = torch.cat([index[:tiled].view(-1, lists.key_tile)[tiles].flatten(), index[tiled:]])
        truth = _attention(call, batch, head, queries, keys)
    limits = torch.finfo(out.dtype)
    step = limits.smallest_normal * limits.eps  # between the smallest numbers, whose rounding is no error of the kernel
    sums = torch.stack([(got - truth).abs().sub(step).clamp_min(0).square().sum(), truth.square().sum()])
    return torch.where(torch.isfinite(sums[1]), sums, torch.zeros_like(sums))


def _attention(call: AttentionCall, batch: int, head: int, queries: Tensor, keys: Tensor) -> Tensor:
    """Exact attention (queries, D) in fp32, few keys at a time."""
    query = call.q[batch, queries, head].float() * call.q.shape[-1] ** -0.5
    parts = keys.split(KEYS_AT_ONCE)
    scores = torch.cat([query @ call.k[batch, part, head].float().T for part in parts], 1)
    if call.key_bias is not None and call.key_bias.shape[1]:
        scores[:, -call.key_bias.shape[1] :] += call.key_bias[batch].float()
    weights = scores.sub_(scores.amax(1, keepdim=True)).exp_()
    total = sum(
        weight @ call.v[batch, part, head].float()
        for weight, part in zip(weights.split(KEYS_AT_ONCE, 1), parts, strict=True)
    )
    return total / weights.sum(1, keepdim=True)
