"""Key tiles chosen online: for each query tile of a routed head the k tiles with the largest pooled q . k.

    chosen(i) = top_k over j of  mean(q in tile i) . mean(k in tile j)

Gives the same tile lists that patterns give, so that backends need not know. The work is one pass over q and k and one
product of (tiles x head_dim) matrices: 1 / (128 * 64) of the dense product.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .call import AttentionCall
from .lists import PREFETCH, TileLists


def routed_call(call: AttentionCall) -> AttentionCall:
    """The call with a list of its own for every (batch, routed head); other heads keep theirs."""
    lists, pairs = call.lists, list(call.pair_lists)
    wanted = sorted({number for number in pairs if number in lists.routed})
    if not wanted:
        return call
    static = len(lists.columns) - PREFETCH
    columns, starts, counts, orders = [lists.columns[:static]], [lists.starts], [lists.counts], [lists.orders]
    densities, used = list(lists.densities), static
    for number in wanted:
        members = [pair for pair, own in enumerate(pairs) if own == number]
        chosen = choose_tiles(call, members, number)
        start, count = (table[number].repeat(len(members), 1) for table in (lists.starts, lists.counts))
        rows = torch.arange(chosen.shape[0] * chosen.shape[1], device=chosen.device).view(chosen.shape[:2])
        start[:, :-1] = used + rows * chosen.shape[2]
        count[:, :-1] = chosen.shape[2]
        for position, pair in enumerate(members):
            pairs[pair] = len(densities) + position
        columns.append(chosen.flatten().to(lists.columns.dtype))
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
    return dataclasses.replace(call, lists=together, head_lists=tuple(pairs))


def choose_tiles(call: AttentionCall, members: list[int], number: int) -> Tensor:
    """Chosen key tiles, ascending, int64 (members, query tiles, k), for (batch, head) pairs of one routed list."""
    lists, heads = call.lists, call.q.shape[2]
    index = lists.index[lists.order_numbers()[number]].long()
    found = []
    for pair in members:
        batch, head = divmod(pair, heads)
        q = mean_tiles(call.q[batch, :, head], index, lists, lists.query_tile)
        k = mean_tiles(call.k[batch, :, head], index, lists, lists.key_tile)
        best = (q @ k.T).topk(lists.routed[number], dim=-1, sorted=False).indices
        found.append(best.sort(-1).values)  # neighbours in memory one after the other
    return torch.stack(found)


def mean_tiles(x: Tensor, index: Tensor, lists: TileLists, tile: int) -> Tensor:
    """Means (tiles, D), float32, of x (S, D) over the full tiles of a token order."""
    tiles = lists.grid.video_tokens // tile
    return x[index[: tiles * tile]].view(tiles, tile, x.shape[-1]).mean(1, dtype=torch.float32)
