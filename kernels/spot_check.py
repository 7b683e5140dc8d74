"""Compares one query tile of each head with exact attention over the same listed keys, on the data of a real call."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from .call import AttentionCall
from .self_test import INT8_LIMIT, LIMITS

SEED = 5


class WrongOutput(RuntimeError):  # noqa: N818 - the output is wrong, and that is no lack of anything
    """A kernel's output is further from exact attention than rounding explains."""


def spot_check(call: AttentionCall, out: Tensor) -> float:
    """Relative L2 error of an output on one random query tile of each head: of the worst head, in 8 bits of all.

    Waits for the device.

    Args:
        call: with chosen tiles (`routed_call`), whose output (B, S, H, D) is `out`.

    Raises:
        WrongOutput: the error is above `LIMITS`, in 8 bits above `INT8_LIMIT`.
    """
    picks = random.Random(SEED)
    sums = torch.stack([_pair_sums(call, out, pair, picks) for pair in range(len(call.pair_lists))])
    if call.int8:  # a head with large scores may exceed the limit alone: its weights are as uncertain as its scores
        sums = sums.sum(0, keepdim=True)
    error = (sums[:, 0] / sums[:, 1].clamp_min(1e-30)).sqrt().max().item()
    limit = INT8_LIMIT if call.int8 else LIMITS.get(out.dtype, min(LIMITS.values()))
    if not error <= limit:  # true for NaN too
        raise WrongOutput(f"its output is wrong on the model's own data: relative error {error:.1e}, limit {limit:.0e}")
    return error


def _pair_sums(call: AttentionCall, out: Tensor, pair: int, picks: random.Random) -> Tensor:
    """||out - truth||^2 and ||truth||^2 on a random query tile of a (batch, head)."""
    lists, number = call.lists, call.pair_lists[pair]
    batch, head = divmod(pair, call.q.shape[2])
    starts, counts = lists.rows(number)
    row = picks.randrange(max(1, len(starts) - 1))
    index = lists.index[lists.order_numbers()[number]].long()
    queries = index[row * lists.query_tile : (row + 1) * lists.query_tile]
    got = out[batch, queries, head].float()
    if counts[row] < 0:
        return torch.stack([got.square().sum()] * 2) * torch.tensor([1.0, 0.0], device=out.device)
    tiles = lists.columns[starts[row] : starts[row] + counts[row]].long()
    tiled = lists.grid.video_tokens // lists.key_tile * lists.key_tile
    keys = torch.cat([index[:tiled].view(-1, lists.key_tile)[tiles].flatten(), index[tiled:]])
    scores = call.q[batch, queries, head].float() @ call.k[batch, keys, head].float().T * call.q.shape[-1] ** -0.5
    if call.key_bias is not None:
        texts = call.key_bias.shape[1]
        scores[:, scores.shape[1] - texts :] += call.key_bias[batch].float()
    truth = scores.softmax(-1) @ call.v[batch, keys, head].float()
    return torch.stack([(got - truth).square().sum(), truth.square().sum()])
