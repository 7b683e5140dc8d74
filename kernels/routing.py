"""Key tiles chosen online: for each query tile of a routed head the k tiles with the largest pooled q . k.

    chosen(i) = top_k over j of  mean(q in tile i) . mean(k in tile j)

Gives the same tile lists that patterns give, so that backends need not know. The work is one pass over q and k and one
product of (tiles x head_dim) matrices: 1 / (128 * 64) of the dense product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from .call import AttentionCall
from .lists import PREFETCH

CHUNK_ELEMENTS = 1 << 22


Means = Callable[[AttentionCall, Tensor, int], Tensor]


def routed_call(call: AttentionCall, means: Means | None = None) -> AttentionCall:
    """The call with a list of its own for every (batch, routed head); other heads keep theirs.

    Args:
        means: mean tokens (B*H, tiles, D) of a tensor (B, S, H, D) over full tiles of so many tokens, in each head's
            token order; a backend's kernel, or by torch.
    """
    means = means or mean_tiles
    lists, pairs = call.lists, list(call.pair_lists)
    wanted = sorted({number for number in pairs if number in lists.routed})
    if not wanted:
        return call
    static = len(lists.columns) - PREFETCH
    columns, starts, counts, orders = [lists.columns[:static]], [lists.starts], [lists.counts], [lists.orders]
    densities, used = list(lists.densities), static
    q_means, k_means = (means(call, x, tile) for x, tile in ((call.q, lists.query_tile), (call.k, lists.key_tile)))
    for number in wanted:
        members = [pair for pair, own in enumerate(pairs) if own == number]
        chosen = choose_tiles(q_means[members], k_means[members], lists.routed[number]).to(lists.columns.dtype)
        start, count = (table[number].repeat(len(members), 1) for table in (lists.starts, lists.counts))
        rows = torch.arange(chosen.shape[0] * chosen.shape[1], device=chosen.device).view(chosen.shape[:2])
        start[:, :-1] = used + rows * chosen.shape[2]
        count[:, :-1] = chosen.shape[2]
        for position, pair in enumerate(members):
            pairs[pair] = len(densities) + position
        columns.append(chosen.flatten())
        starts.append(start)
        counts.append(count)
        orders.append(lists.orders[number].repeat(len(members)))
        densities += [lists.densities[number]] * len(members)
        used += chosen.numel()
    together = dataclasses.replace(
        lists,
        columns=torch.cat([*columns, lists.columns[static:]]),
        starts=torch.cat(starts),
        counts=torch.cat(counts),
        orders=torch.cat(orders),
        densities=tuple(densities),
        _cache={},
    )
    # the numbers of the new lists are those of every call like this one, so what follows from them alone is kept
    key = (tuple(pairs), call.q.shape[2])
    together._cache[key] = lists.kept_aside(key, lambda: together.slots(*key))
    if call.tail:
        together._cache["kept"] = torch.cat([lists.kept(), together._kept(len(lists.densities))])
    return dataclasses.replace(call, lists=together, head_lists=tuple(pairs))


def choose_tiles(q_means: Tensor, k_means: Tensor, kept: int) -> Tensor:
    """Chosen key tiles, ascending, int32 (N, query tiles, kept), for mean queries and keys (N, tiles, D).

    A few heads at a time: the products of all would take more memory than q, k and v may.
    """
    n, rows, columns = len(q_means), q_means.shape[1], k_means.shape[1]
    found = torch.empty(n, rows, kept, dtype=torch.int32, device=q_means.device)
    some = max(1, CHUNK_ELEMENTS // max(1, rows * columns))
    for first in range(0, n, some):
        part = slice(first, first + some)
        products = q_means[part].float() @ k_means[part].float().transpose(1, 2)
        best = products.topk(kept, dim=-1, sorted=False).indices
        found[part] = best.sort(-1).values  # neighbours in memory one after the other
    return found


def mean_tiles(call: AttentionCall, x: Tensor, tile: int) -> Tensor:
    """Means (B*H, tiles, D), float32, of x (B, S, H, D); zeros for heads that are not routed."""
    lists, heads = call.lists, x.shape[2]
    tiles = lists.grid.video_tokens // tile
    found = torch.zeros(len(call.pair_lists), tiles, x.shape[3], dtype=torch.float32, device=x.device)
    for pair, number in enumerate(call.pair_lists):
        if number in lists.routed:
            batch, head = divmod(pair, heads)
            index = lists.index[lists.order_numbers()[number], : tiles * tile].long()
            found[pair] = x[batch, index, head].view(tiles, tile, x.shape[3]).mean(1, dtype=torch.float32)
    return found
