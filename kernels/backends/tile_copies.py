"""Copies of keys and values in tile order, which some kernels read instead of k and v.

For 8-bit attention and for sums in fp16 they are made ready on the way (`quantize_tiles.py`), for tensor descriptors
(TMA) copied as they are. Copies of all heads would be up to two thirds of q, k and v, so they are made for a few heads
at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..call import AttentionCall
from ..configs import KernelConfig
from .launcher import Launch, Launcher

MAX_PACKED = 1 / 10  # of the memory of q, k and v
MAX_QUANTIZED = 1 / 6


@dataclass(frozen=True)
class TileCopies:
    """Copies for one launch of the attention kernel.

    Attributes:
        first, slots: the launch's part of `TileLists.slots`.
        k_tiles, v_tiles: tensors, or Triton's tensor descriptors; None where the kernel reads k and v.
        k_scale: fp32 (slots, key tiles) of quantized keys.
        v_largest: fp32 (B, H, D), largest |v| of each channel.
    """

    first: int
    slots: int
    k_tiles: object | None = None
    v_tiles: object | None = None
    k_scale: Tensor | None = None
    v_largest: Tensor | None = None


def tile_copies(
    call: AttentionCall, config: KernelConfig, slots: Tensor, live: int, launcher: Launcher
) -> Iterator[TileCopies]:
    """Groups of heads, each with its copies; one group without copies where the kernel needs none.

    All groups share their buffers: launch what reads a group before you ask for the next one.

    Args:
        slots: (pairs, 3), see `TileLists.slots`.
        live: so many of them, the first ones, attend anything; the others get no copies.
    """
    if call.int8 or config.fp16_sums:
        yield from _quantized(call, config, slots, live, launcher)
    elif config.packed:
        yield from _packed(call, slots, live, launcher)
    else:
        yield TileCopies(0, len(slots))


def group_size(pairs: int, bytes_per_element: int, allowed: float) -> int:
    """Heads of a group, all groups as even as can be.

    Args:
        bytes_per_element: of the copies; q, k and v together have 6.
        allowed: part of the memory of q, k and v that copies may take. One head may take more.
    """
    most = max(1, int(pairs * 6 * allowed / bytes_per_element + 1e-6))
    return -(-pairs // -(-pairs // most))


def _quantized(
    call: AttentionCall, config: KernelConfig, slots: Tensor, live: int, launcher: Launcher
) -> Iterator[TileCopies]:
    k, v, lists = call.k, call.v, call.lists
    _, tokens, heads, head_dim = k.shape
    size = group_size(len(slots), call.int8 + 2 * config.fp16_sums, MAX_QUANTIZED)
    tiles = -(-tokens // lists.key_tile)
    k_tiles = k_scale = k_mean = v_tiles = v_largest = None
    if call.int8:
        k_tiles = torch.empty(size, tokens, head_dim, dtype=torch.int8, device=k.device)
        k_scale = torch.empty(size, tiles, dtype=torch.float32, device=k.device)
        k_mean = k.mean(1, dtype=torch.float32).contiguous()
    if config.fp16_sums:
        v_tiles = torch.empty(size, tokens, head_dim, dtype=torch.float16, device=k.device)
        v_largest = torch.linalg.vector_norm(v, torch.inf, dim=1, dtype=torch.float32).contiguous()
    tables = [lists.zero() if x is None else x for x in (k_mean, v_largest, k_tiles, v_tiles, k_scale)]
    constants = {"HEAD_DIM": head_dim, "KEY_TILE": lists.key_tile, "KEYS": call.int8, "VALUES": config.fp16_sums}
    for first in range(0, len(slots), size):
        here = min(size, live - first)
        if here > 0:
            strides = (*k.stride()[:3], *v.stride()[:3])
            arguments = (k, v, *tables, slots, lists.orders, lists.index, *strides, first, heads, tokens)
            launcher(Launch("quantize_tiles", (tiles, here), arguments, constants, warps=4))
        count = min(size, len(slots) - first)
        yield TileCopies(first, count, k_tiles, v_tiles, k_scale, v_largest)


def _packed(call: AttentionCall, slots: Tensor, live: int, launcher: Launcher) -> Iterator[TileCopies]:
    k, v, lists = call.k, call.v, call.lists
    tiles = lists.grid.tokens // lists.key_tile
    size = group_size(len(slots), 4, MAX_PACKED)
    packed = torch.empty(2, size * tiles * lists.key_tile, k.shape[3], dtype=k.dtype, device=k.device)
    descriptors = [_descriptor(x, lists.key_tile) for x in packed]
    constants = {"HEAD_DIM": k.shape[3], "KEY_TILE": lists.key_tile}
    for first in range(0, len(slots), size):
        here = min(size, live - first)
        for x, out in zip((k, v), packed, strict=True):
            if here > 0:
                arguments = (x, out, slots, lists.orders, lists.index, *x.stride()[:3], first, k.shape[1])
                launcher(Launch("pack_tiles", (tiles, here), arguments, constants, warps=4))
        yield TileCopies(first, min(size, len(slots) - first), *descriptors)


def _descriptor(x: Tensor, rows: int) -> object:
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(x, [rows, x.shape[1]])
