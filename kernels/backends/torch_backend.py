"""The torch backend: tile lists by gathering, on any device and dtype. It is the specification of all others.

Key tiles that a query tile does not attend are never gathered, so the work shrinks with the density, and no mask or
S x S matrix exists. Query tiles with equal rows share one gather, others of equal length run as one batch.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import AttentionCall
from ..lists import TileLists
from ..routing import choose_tiles

CHUNK_BYTES = 256 << 20  # gathered keys and values at a time


def refusal(call: AttentionCall) -> str | None:
    """Why this backend cannot run the call: never. `int8` is a way to compute, not another result: it is not needed."""
    return None


choose = choose_tiles


def needs_self_test(device: torch.device) -> bool:
    """Never: it is what the others are tested against."""
    return False


def attention(call: AttentionCall) -> Tensor:
    """Output (B, S, H, D) of a call."""
    out = torch.empty(call.q.shape, dtype=call.q.dtype, device=call.q.device)
    by_head = out.transpose(1, 2)
    pairs_of: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for pair, number in enumerate(call.pair_lists):
        pairs_of[number].append(divmod(pair, call.q.shape[2]))
    skipped = call.lists.skipped()
    for number, pairs in pairs_of.items():
        batch, head = torch.tensor(pairs, device=out.device).unbind(1)
        if skipped[number] and not call.lists.grid.text_tokens:
            by_head[batch, head] = 0
            continue
        index = call.lists.index[call.lists.order_numbers()[number]].long()
        q, k, v = (x.transpose(1, 2)[batch[:, None], head[:, None], index] for x in (call.q, call.k, call.v))
        bias = None if call.key_bias is None else call.key_bias[batch].to(q.dtype)
        by_head[batch[:, None], head[:, None], index] = _OneList(call.lists, number, k, v, bias).attend(q)
    return out


class _OneList:
    """Attention of heads that share one list, in tile order.

    Args:
        k, v: (N, S, D).
        bias: (N, text tokens), added to the scores of the text keys.
    """

    def __init__(self, lists: TileLists, number: int, k: Tensor, v: Tensor, bias: Tensor | None):
        self.lists, self.number, self.bias = lists, number, bias
        self.rows, self.skipped = lists.starts.shape[1] - 1, lists.skipped()[number]
        self.starts, self.kv_num_blocks = lists.rows(number)
        tiled = lists.grid.video_tokens // lists.key_tile * lists.key_tile
        self.k_tiles, self.v_tiles = (x[:, :tiled].unflatten(1, (-1, lists.key_tile)) for x in (k, v))
        self.k_rest, self.v_rest = k[:, tiled:], v[:, tiled:]

    def attend(self, q: Tensor) -> Tensor:
        """Output (N, S, D) for q (N, S, D)."""
        n, tokens, dim = q.shape
        tiled = self.rows * self.lists.query_tile
        q_tiles = q[:, :tiled].unflatten(1, (-1, self.lists.query_tile)) if tiled else q[:, None, :0]
        out = torch.empty_like(q)
        out_tiles = out[:, :tiled].view_as(q_tiles)
        if self.skipped:
            out_tiles.zero_()
        for tile_rows, chosen in kept_batches(self.lists, self.number, n, dim):
            query = q_tiles.index_select(1, tile_rows)
            # equal rows: one gather serves them all
            merged = query.flatten(1, 2)[:, None] if len(chosen) == 1 else query
            out_tiles.index_copy_(1, tile_rows, self._softmax(merged, chosen).view_as(query))
        if tokens > tiled:
            last = _kv_indices(self.lists, [(self.starts[-1], self.kv_num_blocks[-1])])
            out[:, tiled:] = self._softmax(q[:, None, tiled:], last)[:, 0]
        return out

    def _softmax(self, query: Tensor, chosen: Tensor) -> Tensor:
        """Output (N, parts, rows, D) of query (N, parts, rows, D) over chosen key tiles (parts, count)."""
        k, v = (
            _gather(tiles, rest, chosen) for tiles, rest in ((self.k_tiles, self.k_rest), (self.v_tiles, self.v_rest))
        )
        if self.bias is None:
            return F.scaled_dot_product_attention(query, k, v)
        score_bias = torch.zeros(len(query), 1, 1, k.shape[2], dtype=query.dtype, device=query.device)
        if self.bias.shape[1]:
            score_bias[..., -self.bias.shape[1] :] = self.bias[:, None, None]
        return F.scaled_dot_product_attention(query, k, v, score_bias)


def keep_tables(lists: TileLists, pair_lists: tuple[int, ...], head_dim: int) -> None:
    """Make the tables that calls with these heads share."""
    for number, pairs in Counter(pair_lists).items():
        if number not in lists.routed:  # whose lists are of one call
            kept_batches(lists, number, pairs, head_dim)


def kept_batches(lists: TileLists, number: int, pairs: int, head_dim: int) -> list[tuple[Tensor, Tensor]]:
    """Query tiles of a list that run together and their key tiles (1 or as many rows, count); worked out once.

    Args:
        pairs: (batch, head) pairs that share the list.
    """

    def make() -> list[tuple[Tensor, Tensor]]:
        starts, kv_num_blocks = lists.rows(number)
        computed = 0 if lists.skipped()[number] else len(starts) - 1
        tile_bytes = pairs * lists.key_tile * head_dim * 4 * 2  # as if in fp32: the dtype is not known beforehand
        return [
            (torch.tensor(tiles, device=lists.kv_indices.device), _kv_indices(lists, parts))
            for tiles, parts in _batches(starts[:computed], kv_num_blocks[:computed], tile_bytes)
        ]

    return lists.cached(("batches", number, pairs, head_dim, CHUNK_BYTES), make)


def _kv_indices(lists: TileLists, parts: list[tuple[int, int]]) -> Tensor:
    return torch.stack([lists.kv_indices[start : start + count].long() for start, count in parts])


def _gather(tiles: Tensor, rest: Tensor, chosen: Tensor) -> Tensor:
    """Chosen tiles (parts, count) of tiles (N, T, tile, D), then all of rest (N, R, D): (N, parts, keys, D)."""
    kept = tiles.index_select(1, chosen.flatten()).view(len(tiles), len(chosen), -1, tiles.shape[-1])
    return torch.cat([kept, rest[:, None].expand(-1, len(chosen), -1, -1)], 2) if rest.shape[1] else kept


def _batches(starts: list[int], kv_num_blocks: list[int], tile_bytes: int) -> list[tuple[list[int], list]]:
    """Query tiles that run together: (tile numbers, their distinct rows) with one row or as many as tiles."""
    same: dict[tuple[int, int], list[int]] = defaultdict(list)
    for tile, part in enumerate(zip(starts, kv_num_blocks, strict=True)):
        same[part].append(tile)
    batches, single = [], defaultdict(list)
    for part, tiles in same.items():
        if len(tiles) > 1:
            batches.append((tiles, [part]))
        else:
            single[part[1]].append((tiles[0], part))
    for count, members in single.items():
        size = max(1, CHUNK_BYTES // max(1, count * tile_bytes))
        for first in range(0, len(members), size):
            tiles, parts = zip(*members[first : first + size], strict=True)
            batches.append((list(tiles), list(parts)))
    return batches
