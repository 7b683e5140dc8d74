"""Key tiles chosen online: for each query tile of a routed head the k tiles with the largest pooled q . k.

    chosen(i) = top_k over j of  mean(q in tile i) . mean(k in tile j)

Gives the same tile lists that patterns give, so that backends need not know. The work is one pass over q and k and one
product of (tiles x head_dim) matrices: 1 / (128 * 64) of the dense product. What all calls with the same heads share is
made once and stays on the device, so that no call waits for a copy.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .call import AttentionCall
from .lists import PREFETCH, TileLists

MAX_ENTRIES = 2**31 - 1
MAX_EXTRA = 0.05  # of the memory of q, k and v: scores at a time


@dataclasses.dataclass(frozen=True)
class Routing:
    """What routed calls with the same heads have in common, with every (batch, routed head) as a list.

    Attributes:
        first: number of the first of these lists; those of the plan come before them.
        members: batch, head and list of the plan of each new list, int32 (members, 3).
        kept: key tiles per query tile of each new list.
        starts, kv_num_blocks, orders: as in `TileLists`, for all lists.
        entries: of `kv_indices`, the ones that are read ahead not counted.
        pair_lists: list of each (batch, head).
        densities: of all lists.
        cache: what `TileLists` remembers of lists like these.
    """

    first: int
    members: Tensor
    kept: tuple[int, ...]
    starts: Tensor
    kv_num_blocks: Tensor
    orders: Tensor
    entries: int
    pair_lists: tuple[int, ...]
    densities: tuple[float, ...]
    cache: dict


Choose = Callable[[AttentionCall, Routing, Tensor], None]
"""Writes the chosen tiles of every new list into `kv_indices`, where its starts say."""


def routing_of(lists: TileLists, pair_lists: tuple[int, ...], heads: int) -> Routing | None:
    """What calls with these heads have in common, made once; None where no head is routed.

    Args:
        pair_lists: list of each (batch, head).
    """
    if lists.routed.keys().isdisjoint(pair_lists):
        return None
    return lists.cached(("routing", pair_lists, heads), lambda: _new_routing(lists, pair_lists, heads))


def _new_routing(lists: TileLists, pair_lists: tuple[int, ...], heads: int) -> Routing:
    first, rows = len(lists.densities), lists.starts.shape[1] - 1
    used, device = len(lists.kv_indices) - PREFETCH, lists.kv_indices.device
    routed = [pair for pair, number in enumerate(pair_lists) if number in lists.routed]
    own = [pair_lists[pair] for pair in routed]
    kept = [lists.routed[number] for number in own]
    host_starts, host_num_blocks = torch.zeros(2, len(own), rows + 1, dtype=torch.int64)
    for member, (number, count) in enumerate(zip(own, kept, strict=True)):
        starts, kv_num_blocks = lists.rows(number)
        host_starts[member, :-1] = used + count * torch.arange(rows)
        host_num_blocks[member, :-1] = count
        host_starts[member, -1], host_num_blocks[member, -1] = starts[-1], kv_num_blocks[-1]
        used += count * rows
    if used >= MAX_ENTRIES:
        raise ValueError(f"{len(own)} routed heads choose {used} key tiles, kernels count up to {MAX_ENTRIES}")
    pairs, densities = list(pair_lists), (*lists.densities, *(lists.densities[number] for number in own))
    for member, pair in enumerate(routed):
        pairs[pair] = first + member
    orders = lists.order_numbers() + [lists.order_numbers()[number] for number in own]
    members = [(*divmod(pair, heads), number) for pair, number in zip(routed, own, strict=True)]
    return Routing(
        first=first,
        members=torch.tensor(members, dtype=torch.int32, device=device),
        kept=tuple(kept),
        starts=torch.cat([lists.starts, host_starts.to(device, torch.int32)]),
        kv_num_blocks=torch.cat([lists.kv_num_blocks, host_num_blocks.to(device, torch.int32)]),
        orders=torch.tensor(orders, dtype=torch.int32, device=device),
        entries=used,
        pair_lists=tuple(pairs),
        densities=densities,
        cache={
            (tuple(pairs), heads): lists.new_slots(tuple(pairs), densities, heads),
            "zero": lists.zero(),
            "orders": orders,
            "skipped": lists.skipped() + [False] * len(own),
            "text_only": lists.text_only() + [False] * len(own),
        },
    )


def routed_call(call: AttentionCall, choose: Choose | None = None) -> AttentionCall:
    """The call with a list for every (batch, routed head); other heads keep theirs.

    Args:
        choose: a backend's way to choose the tiles, or `choose_tiles`.
    """
    lists, routing = call.lists, routing_of(call.lists, call.pair_lists, call.q.shape[2])
    if routing is None:
        return call
    used = len(lists.kv_indices) - PREFETCH
    kv_indices = lists.kv_indices.new_zeros(routing.entries + PREFETCH)
    kv_indices[:used].copy_(lists.kv_indices[:used])
    if lists.grid.video_tokens >= lists.query_tile:  # there is a query tile to choose for
        (choose or choose_tiles)(call, routing, kv_indices)
    together = dataclasses.replace(
        lists,
        kv_indices=kv_indices,
        starts=routing.starts,
        kv_num_blocks=routing.kv_num_blocks,
        orders=routing.orders,
        densities=routing.densities,
        derived=True,
        _cache=dict(routing.cache),
    )
    return dataclasses.replace(call, lists=together, head_lists=routing.pair_lists)


def score_chunks(call: AttentionCall, q_means: Tensor, k_means: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Scores of the new lists, few lists at a time: number of the first member and (members, query tiles, tiles) fp32.

    Args:
        q_means, k_means: fp32 (members, tiles, D).
    """
    members, rows, tiles = len(q_means), q_means.shape[1], k_means.shape[1]
    allowed = int(MAX_EXTRA * 3 * call.q.numel() * call.q.element_size())
    size = max(1, allowed // max(1, 4 * rows * tiles))
    for first in range(0, members, size):
        part = slice(first, first + size)
        yield first, torch.bmm(q_means[part], k_means[part].transpose(1, 2))


def choose_tiles(call: AttentionCall, routing: Routing, kv_indices: Tensor) -> None:
    """Choose tiles by torch, on any device. Members that keep as many tiles are chosen together."""
    lists = call.lists
    q_means, k_means = (
        mean_tiles(call, routing, x, tile) for x, tile in ((call.q, lists.query_tile), (call.k, lists.key_tile))
    )
    rows, place = q_means.shape[1], len(lists.kv_indices) - PREFETCH
    for first, scores in score_chunks(call, q_means, k_means):
        alike: dict[int, list[int]] = defaultdict(list)
        for member in range(len(scores)):
            alike[routing.kept[first + member]].append(member)
        chosen: dict[int, Tensor] = {}
        for kept, members in alike.items():
            some = scores if len(members) == len(scores) else scores[members]
            chosen |= dict(zip(members, best_tiles(some, kept).to(kv_indices.dtype), strict=True))
        for member in range(len(scores)):
            entries = chosen[member].flatten()
            kv_indices[place : place + len(entries)] = entries
            place += rows * routing.kept[first + member]


def best_tiles(scores: Tensor, kept: int) -> Tensor:
    """The tiles with the largest of scores (..., tiles), ascending, as neighbours in memory: int64 (..., kept)."""
    return scores.topk(kept, dim=-1, sorted=False).indices.sort(-1).values


def mean_tiles(call: AttentionCall, routing: Routing, x: Tensor, tile: int) -> Tensor:
    """Mean tokens (members, tiles, D) fp32 of x (B, S, H, D) over full tiles, in each member's token order."""
    lists = call.lists
    tiles = lists.grid.video_tokens // tile
    found = torch.empty(len(routing.kept), tiles, x.shape[3], dtype=torch.float32, device=x.device)
    index = lists.index[:, : tiles * tile]
    orders = iter(routing.cache["orders"][routing.first :])
    routed = (pair for pair, number in enumerate(call.pair_lists) if number in lists.routed)
    for member, pair in enumerate(routed):
        batch, head = divmod(pair, x.shape[2])
        tokens = x[batch, :, head].index_select(0, index[next(orders)])
        found[member] = tokens.view(tiles, tile, -1).mean(1, dtype=torch.float32)
    return found
