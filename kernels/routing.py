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
from .lists import PREFETCH, TileLists, tile_bits

CHUNK_ELEMENTS = 1 << 20  # of products at a time: those of all heads would take more memory than q, k and v may

Means = Callable[[AttentionCall, Tensor, int], Tensor]


@dataclasses.dataclass(frozen=True)
class Numbering:
    """Numbers of the lists of a call once every (batch, routed head) has its own.

    Attributes:
        pairs: list of each (batch, head).
        members: for each routed list the (batch, head) numbers that had it, in the order of their new lists.
        densities: of all lists.
    """

    pairs: tuple[int, ...]
    members: dict[int, list[int]]
    densities: tuple[float, ...]


def numbering(lists: TileLists, pair_lists: tuple[int, ...]) -> Numbering:
    """The same for every call with the same heads."""
    pairs, densities, members = list(pair_lists), list(lists.densities), {}
    for number in sorted(set(pair_lists) & set(lists.routed)):
        members[number] = [pair for pair, own in enumerate(pair_lists) if own == number]
        for pair in members[number]:
            pairs[pair] = len(densities)
            densities.append(lists.densities[number])
    return Numbering(tuple(pairs), members, tuple(densities))


def launch_slots(lists: TileLists, pair_lists: tuple[int, ...], heads: int) -> Tensor:
    """What launches of a call read, `TileLists.slots`, once its routed heads have lists of their own."""
    found = numbering(lists, pair_lists)
    return lists.kept_aside((found.pairs, heads), lambda: lists.new_slots(found.pairs, found.densities, heads))


def routed_call(call: AttentionCall, means: Means | None = None) -> AttentionCall:
    """The call with a list of its own for every (batch, routed head); other heads keep theirs.

    Args:
        means: mean tokens (B*H, tiles, D) of a tensor (B, S, H, D) over full tiles of so many tokens, in each head's
            token order; a backend's kernel, or by torch.
    """
    means = means or mean_tiles
    lists, found = call.lists, numbering(call.lists, call.pair_lists)
    if not found.members:
        return call
    q_means, k_means = (means(call, x, tile) for x, tile in ((call.q, lists.query_tile), (call.k, lists.key_tile)))
    rows, used = q_means.shape[1], len(lists.columns) - PREFETCH
    entries = sum(len(members) * rows * lists.routed[number] for number, members in found.members.items())
    columns = lists.columns.new_zeros(used + entries + PREFETCH)
    columns[:used] = lists.columns[:used]
    starts, counts, orders, bits = [lists.starts], [lists.counts], [lists.orders], []
    for number, members in found.members.items():
        kept = lists.routed[number]
        chosen = columns[used : used + len(members) * rows * kept].view(len(members), rows, kept)
        choose_tiles(q_means[members], k_means[members], chosen)
        start, count = (table[number].repeat(len(members), 1) for table in (lists.starts, lists.counts))
        place = torch.arange(len(members) * rows, device=columns.device, dtype=torch.int32).view(len(members), rows)
        start[:, :-1] = used + place * kept
        count[:, :-1] = kept
        starts.append(start)
        counts.append(count)
        orders.append(lists.orders[number].repeat(len(members)))
        bits += [_kept_bits(tiles, k_means.shape[1]) for tiles in chosen] if call.tail else []
        used += chosen.numel()
    together = dataclasses.replace(
        lists,
        columns=columns,
        starts=torch.cat(starts),
        counts=torch.cat(counts),
        orders=torch.cat(orders),
        densities=found.densities,
        _cache={(found.pairs, call.q.shape[2]): launch_slots(lists, call.pair_lists, call.q.shape[2])},
    )
    if call.tail:
        together._cache["kept"] = torch.cat([lists.kept(), torch.stack(bits)])
    return dataclasses.replace(call, lists=together, head_lists=found.pairs)


def choose_tiles(q_means: Tensor, k_means: Tensor, chosen: Tensor) -> None:
    """Fill chosen, whole numbers (N, query tiles, kept), with the best key tiles, ascending, for mean queries and keys
    (N, tiles, D). A few heads at a time.
    """
    n, rows, columns = len(q_means), q_means.shape[1], k_means.shape[1]
    some = max(1, CHUNK_ELEMENTS // max(1, rows * columns))
    for first in range(0, n, some):
        part = slice(first, first + some)
        products = q_means[part].float() @ k_means[part].float().transpose(1, 2)
        best = products.topk(chosen.shape[2], dim=-1, sorted=False).indices.to(chosen.dtype)
        chosen[part] = best.sort(-1).values  # neighbours in memory one after the other


def _kept_bits(chosen: Tensor, tiles: int) -> Tensor:
    """`TileLists.kept` of one list with chosen tiles (query tiles, kept) and a dense last row."""
    mask = torch.zeros(len(chosen) + 1, tiles, dtype=torch.bool, device=chosen.device)
    mask[:-1].scatter_(1, chosen.long(), True)
    mask[-1] = True
    return tile_bits(mask)


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
