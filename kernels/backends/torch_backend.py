"""The torch backend: tile lists by gathering, on any device and dtype. It is the specification of all others.

Keys that a query tile does not attend are never gathered, so the work shrinks with the density, and no mask or S x S
matrix exists. Query tiles with equal rows share one gather, others of equal length run as one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import AttentionCall
from ..lists import TileLists
from ..routing import choose_tiles

CHUNK_BYTES = 256 << 20  # gathered keys and values at a time
CPU_CHUNK_BYTES = 16 << 20  # on a CPU, whose caches hold them and whose allocator reuses blocks of this size
SDPA_ROWS = 768  # with fewer query rows PyTorch's SDPA on a CPU multiplies 32 or 64 of them at a time instead of 256


def refusal(call: AttentionCall) -> str | None:
    """Why this backend cannot run the call: never. `int8` is a way to compute, not another result: it is not needed."""
    return None


choose = choose_tiles


def needs_self_test(device: torch.device) -> bool:
    """Never: it is what the others are tested against."""
    return False


def attention(call: AttentionCall) -> Tensor:
    """Output (B, S, H, D) of a call."""
    out = torch.zeros(call.q.shape, dtype=call.q.dtype, device=call.q.device)  # and so it stays where heads are skipped
    for pair, number in enumerate(call.pair_lists):
        batch, head = divmod(pair, call.q.shape[2])
        q, k, v, head_out = (x[batch, :, head] for x in (call.q, call.k, call.v, out))
        bias = None if call.key_bias is None else call.key_bias[batch].to(q.dtype)
        for queries, tiles in kept_batches(call.lists, number, call.q.shape[3]):
            found = _attend(_gather(q, queries), k, v, _key_tokens(call.lists, number, tiles), bias)
            head_out.index_copy_(0, queries.flatten(), found.flatten(0, 1))
    return out


def keep_tables(lists: TileLists, head_lists: tuple[int, ...], head_dim: int) -> None:
    """Make the tables that calls with these heads share."""
    for number in set(head_lists) - lists.routed.keys():  # whose lists are of one call
        kept_batches(lists, number, head_dim)


def kept_batches(lists: TileLists, number: int, head_dim: int) -> list[tuple[Tensor, Tensor]]:
    """What of a list runs together, worked out once: queries (parts, rows) by their position in the sequence, and the
    key tiles (parts, count) of each part."""
    on_cpu = lists.kv_indices.device.type == "cpu"
    chunk_bytes = CPU_CHUNK_BYTES if on_cpu else CHUNK_BYTES
    most_tiles = chunk_bytes // (lists.key_tile * head_dim * 4 * 2)  # in fp32: the dtype is not known beforehand
    return lists.cached(("batches", number, most_tiles), lambda: list(_batches(lists, number, most_tiles)))


def _batches(lists: TileLists, number: int, most_tiles: int) -> Iterator[tuple[Tensor, Tensor]]:
    starts, kv_num_blocks = lists.rows(number)
    index = lists.index[lists.order_numbers()[number]].long()
    full = [lists.query_tile] * (len(starts) - 1)
    same: dict[tuple[int, int], list[Tensor]] = defaultdict(list)  # queries by their keys
    for start, count, queries in zip(starts, kv_num_blocks, index.split([*full, len(index) - sum(full)]), strict=True):
        if count >= 0 and len(queries):
            same[start, count].append(queries)
    alike: dict[tuple[int, int], list[tuple[int, list[Tensor]]]] = defaultdict(list)  # parts by their shape
    for (start, count), tiles in same.items():
        alike[sum(map(len, tiles)), count].append((start, tiles))
    for (rows, count), parts in alike.items():
        size = max(1, most_tiles // max(1, count))
        for first in range(0, len(parts), size):
            begins, tiles = zip(*parts[first : first + size], strict=True)
            places = torch.tensor(begins, device=index.device)[:, None] + torch.arange(count, device=index.device)
            yield torch.cat([*chain(*tiles)]).view(-1, rows), lists.kv_indices[places].long()


def _key_tokens(lists: TileLists, number: int, tiles: Tensor) -> Tensor:
    """Positions (parts, keys) in the sequence of key tiles (parts, count), then of all that follow the tiles."""
    index, tiled = (
        lists.index[lists.order_numbers()[number]],
        lists.grid.video_tokens // lists.key_tile * lists.key_tile,
    )
    chosen = index[:tiled].view(-1, lists.key_tile)[tiles].flatten(1)
    return torch.cat([chosen, index[tiled:].expand(len(tiles), -1)], 1)


def _gather(x: Tensor, positions: Tensor) -> Tensor:
    """Tokens (parts, n, D) of x (S, D) at positions (parts, n)."""
    return x.index_select(0, positions.flatten()).view(*positions.shape, -1)


def _attend(query: Tensor, k: Tensor, v: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor:
    """Output of query (parts, rows, D) over k, v (S, D) at keys (parts, n), the last of which have the bias (text,)."""
    if query.device.type == "cpu" and query.dtype.itemsize > 2 and query.shape[1] < SDPA_ROWS:
        scores = torch.bmm(query * query.shape[2] ** -0.5, _gather(k, keys).transpose(1, 2))
        if bias is not None:
            scores[..., keys.shape[1] - len(bias) :] += bias
        return torch.bmm(scores.softmax(2), _gather(v, keys))
    mask = None if bias is None else F.pad(bias, (keys.shape[1] - len(bias), 0))[None]
    return F.scaled_dot_product_attention(query[None], _gather(k, keys)[None], _gather(v, keys)[None], mask)[0]
