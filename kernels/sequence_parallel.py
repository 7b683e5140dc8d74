"""Sequence parallelism: every rank holds a part of the sequence, and attends the whole sequence of some heads.

As in DeepSpeed Ulysses (arXiv 2309.14509), by two exchanges. Sparse heads differ in time, so ranks get different heads
and numbers of heads: `deal_heads` evens out what each rank has to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .attention import AUTO, sparse_attention
from .call import AttentionCall
from .lists import TileLists

HeadsOfRanks = tuple[tuple[int, ...], ...]
"""Numbers of the heads that each rank computes."""

MIN_GAIN = 1e-6  # of the slowest rank's time; less is rounding


def deal_heads(costs: Sequence[float], ranks: int) -> HeadsOfRanks:
    """Deal heads to ranks so that the slowest rank has little more to do than the mean. The same on every rank.

    The costliest heads go first, each to the rank that has the least to do; then heads are moved and swapped away from
    the slowest rank while that helps.

    Args:
        costs: of each head, in any unit; a static plan knows them beforehand, as densities of its tile lists.

    Raises:
        ValueError: more ranks than heads.
    """
    if not 1 <= ranks <= len(costs):
        raise ValueError(f"{len(costs)} heads cannot be dealt to {ranks} ranks, use 1 to {len(costs)} ranks")
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    for head in sorted(range(len(costs)), key=lambda head: -costs[head]):
        rank = min(range(ranks), key=lambda rank: (sums[rank], len(dealt[rank])))
        dealt[rank].append(head)
        sums[rank] += costs[head]
    while _relieve(costs, dealt, sums):
        pass
    return tuple(tuple(sorted(heads)) for heads in dealt)


def _relieve(costs: Sequence[float], dealt: list[list[int]], sums: list[float]) -> bool:
    """Move a head from the slowest rank to another one, perhaps for a head of that; returns whether it helps."""
    slowest = max(range(len(sums)), key=sums.__getitem__)
    changes = (
        (max(sums[slowest] - difference, sums[rank] + difference), rank, head, other, difference)
        for rank in range(len(sums))
        for head in dealt[slowest]
        for other in (-1, *dealt[rank])  # -1: none comes back
        if rank != slowest and (difference := costs[head] - (0.0 if other < 0 else costs[other])) > 0
    )
    best = min(changes, default=None)
    if best is None or best[0] >= sums[slowest] * (1 - MIN_GAIN):
        return False
    _, rank, head, other, difference = best
    dealt[slowest].remove(head)
    dealt[rank].append(head)
    if other >= 0:
        dealt[rank].remove(other)
        dealt[slowest].append(other)
    sums[slowest] -= difference
    sums[rank] += difference
    return True


def ulysses_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lists: TileLists,
    head_lists: Sequence[int],
    dealt: HeadsOfRanks,
    parts: Sequence[int] | None = None,
    group: dist.ProcessGroup | None = None,
    backend: str = AUTO,
    **options: object,
) -> Tensor:
    """`sparse_attention` of a sequence whose tokens lie on the ranks of a process group. Every rank has to call it.

    Tokens that pad a part to equal shards belong to the prefix or suffix of the lists' grid, with a `key_bias` of -inf.
    As with any text, a skipped head then computes the last video tokens, those that fill no tile.

    Args:
        q, k, v: this rank's shard, (B, S / ranks, H, D); all shards have one shape.
        lists: of the whole sequence, as on one device.
        head_lists: number of a list for each of the H heads.
        dealt: what `deal_heads` gives, the same on every rank.
        parts: tokens in a shard of each part of the sequence, text and video say: each part is sharded by itself, and
            the whole sequence has all of the first part before the second. None where it is one part.
        group: of the ranks; None takes the default one.
        options: `key_bias` of the whole sequence, (B, prefix + suffix), and `int8`.

    Returns:
        This rank's shard of the output, (B, S / ranks, H, D).

    Raises:
        ValueError: the same on every rank, before anything is exchanged.
        Exception: of a kernel. The other ranks then wait until their process group gives up.
    """
    ranks, mine = dist.get_world_size(group), dealt[dist.get_rank(group)]
    parts = (q.shape[1],) if parts is None else tuple(parts)
    _check(q, k, v, lists, head_lists, dealt, parts, ranks, options)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sparse_attention(q, k, v, lists, [head_lists[head] for head in mine], backend, **options)

    return attend_by_heads(q, k, v, dealt, attend, parts, group)


def attend_by_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dealt: HeadsOfRanks,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    parts: Sequence[int] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The two exchanges around any attention; arguments and result as those of `ulysses_attention`.

    Args:
        attend: attention of this rank's heads, from q, k and v (B, S, heads, D) of the whole sequence to the output.
    """
    parts, heads = (q.shape[1],) if parts is None else tuple(parts), len(dealt[dist.get_rank(group)])
    whole = (_gather_tokens(x, dealt, heads, parts, group) for x in (q, k, v))
    return _gather_heads(attend(*whole), dealt, parts, group)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lists: TileLists,
    head_lists: Sequence[int],
    dealt: HeadsOfRanks,
    parts: tuple[int, ...],
    ranks: int,
    options: dict,
) -> None:
    """Raise ValueError on every rank, where an error on one would leave the others waiting."""
    batch, tokens, heads, head_dim = q.shape
    if sum(parts) != tokens or min(parts) < 0:
        raise ValueError(f"parts {parts} are not the {tokens} tokens of a shard")
    if len(head_lists) != heads:
        raise ValueError(f"head_lists has {len(head_lists)} numbers, expected one for each of {heads} heads")
    if len(dealt) != ranks or not all(dealt) or sorted(sum(dealt, ())) != list(range(heads)):
        raise ValueError(f"dealt {dealt} does not give each of {heads} heads to one of {ranks} ranks, each rank some")
    if not q.shape == k.shape == v.shape:
        raise ValueError(f"q, k, v are {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}, expected one shape")
    whole = (x.new_zeros(()).expand(batch, ranks * tokens, heads, head_dim) for x in (q, k, v))
    AttentionCall(*whole, lists, tuple(head_lists), **options)


def _gather_tokens(
    x: Tensor, dealt: HeadsOfRanks, heads: int, parts: tuple[int, ...], group: dist.ProcessGroup | None
) -> Tensor:
    """The whole sequence (B, S, heads, D) of this rank's heads, from this rank's shard of all heads."""
    batch, tokens, _, head_dim = x.shape
    size = batch * tokens * head_dim
    sent = torch.cat([x[:, :, list(some)].flatten() for some in dealt])
    found = _exchange(sent, [size * len(some) for some in dealt], [size * heads] * len(dealt), group)
    found = found.view(len(dealt), batch, tokens, heads, head_dim).transpose(0, 1)
    whole = [part.flatten(1, 2) for part in found.split(parts, 2)]
    return whole[0] if len(whole) == 1 else torch.cat(whole, 1)


def _gather_heads(
    x: Tensor, dealt: HeadsOfRanks, parts: tuple[int, ...], group: dist.ProcessGroup | None
) -> Tensor:
    """This rank's shard of all heads, from the whole sequence (B, S, heads, D) of its own."""
    batch, _, heads, head_dim = x.shape
    ranks, tokens = len(dealt), sum(parts)
    size = batch * tokens * head_dim
    shards = torch.cat([part.unflatten(1, (ranks, -1)) for part in x.split([ranks * part for part in parts], 1)], 2)
    sizes = [size * len(some) for some in dealt]
    found = _exchange(shards.transpose(0, 1).flatten(), [size * heads] * ranks, sizes, group)
    out = x.new_empty(batch, tokens, sum(map(len, dealt)), head_dim)
    for some, part in zip(dealt, found.split(sizes), strict=True):
        out[:, :, list(some)] = part.view(batch, tokens, len(some), head_dim)
    return out


def _exchange(sent: Tensor, give: list[int], take: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """What all ranks have sent to this one, in their order: `give` and `take` numbers to and from each rank."""
    found = sent.new_empty(sum(take))
    dist.all_to_all_single(found, sent, take, give, group=group)
    return found
