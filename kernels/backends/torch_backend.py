"""The torch backend: tile lists by gathering, on any device and dtype. It is the specification of all others.

Key tiles that a query tile does not attend are never gathered, so the work shrinks with the density, and no mask or
S x S matrix exists. Query tiles with equal rows share one gather, others of equal length run as one batch.
"""

from __future__ import annotations

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from ..lists import TileLists

CHUNK_BYTES = 256 << 20  # gathered keys and values at a time


def refusal(q: Tensor, lists: TileLists) -> str | None:
    """Why this backend cannot run the call: never."""
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, lists: TileLists, head_lists: list[int]) -> Tensor:
    """Attention of q, k, v (B, S, H, D), any strides, with one tile list per head -> (B, S, H, D)."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    heads_of: dict[int, list[int]] = defaultdict(list)
    for head, number in enumerate(head_lists):
        heads_of[number].append(head)
    for number, heads in heads_of.items():
        if int(lists.counts[number, 0]) < 0:
            out[:, :, heads] = 0
            continue
        index = lists.index[int(lists.orders[number])].long()
        # one contiguous copy per group of heads: (B * heads, S, D) in tile order
        sorted_qkv = [x[:, :, heads].index_select(1, index).transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
        result = _one_list(*sorted_qkv, lists, number)
        out[:, index[:, None], torch.tensor(heads, device=q.device)] = result.unflatten(0, (-1, len(heads))).transpose(
            1, 2
        )
    return out


def _one_list(q: Tensor, k: Tensor, v: Tensor, lists: TileLists, number: int) -> Tensor:
    """Attention of (N, S, D) in tile order with one list."""
    n, tokens, dim = q.shape
    query_tile, key_tile = lists.query_tile, lists.key_tile
    rows = lists.starts.shape[1] - 1
    tiled_keys = lists.grid.video_tokens // key_tile * key_tile
    k_tiles, v_tiles = (x[:, :tiled_keys].reshape(n, -1, key_tile, dim) for x in (k, v))
    k_rest, v_rest = k[:, tiled_keys:], v[:, tiled_keys:]
    starts, counts = lists.starts[number].tolist(), lists.counts[number].tolist()
    out = torch.empty_like(q)

    def gather(tiles: Tensor, rest: Tensor, parts: list[tuple[int, int]]) -> Tensor:
        chosen = torch.stack([lists.columns[start : start + count].long() for start, count in parts])
        kept = tiles[:, chosen].reshape(n, len(parts), -1, dim)
        return torch.cat([kept, rest[:, None].expand(-1, len(parts), -1, -1)], 2)

    def attend(query: Tensor, parts: list[tuple[int, int]]) -> Tensor:
        return F.scaled_dot_product_attention(query, gather(k_tiles, k_rest, parts), gather(v_tiles, v_rest, parts))

    q_tiles = q[:, : rows * query_tile].reshape(n, rows, query_tile, dim)
    out_tiles = out[:, : rows * query_tile].view(n, rows, query_tile, dim)
    for tile_rows, parts in _batches(starts[:rows], counts[:rows], n, key_tile * dim * q.element_size() * 2):
        query = q_tiles[:, tile_rows]
        merged = query.reshape(n, 1, -1, dim) if len(parts) == 1 else query  # equal rows: one gather serves them all
        out_tiles[:, tile_rows] = attend(merged, parts).view_as(query)
    if tokens > rows * query_tile:
        dense = slice(rows * query_tile, tokens)
        out[:, dense] = attend(q[:, None, dense], [(starts[rows], counts[rows])])[:, 0]
    return out


def _batches(starts: list[int], counts: list[int], n: int, tile_bytes: int) -> list[tuple[list[int], list]]:
    """Query tiles that run together: (tile numbers, their distinct rows) with one row or as many as tiles."""
    same: dict[tuple[int, int], list[int]] = defaultdict(list)
    for tile, part in enumerate(zip(starts, counts, strict=True)):
        same[part].append(tile)
    batches, single = [], defaultdict(list)
    for part, tiles in same.items():
        if len(tiles) > 1:
            batches.append((tiles, [part]))
        else:
            single[part[1]].append((tiles[0], part))
    for count, members in single.items():
        size = max(1, CHUNK_BYTES // max(1, n * count * tile_bytes))
        for first in range(0, len(members), size):
            tiles, parts = zip(*members[first : first + size], strict=True)
            batches.append((list(tiles), list(parts)))
    return batches
