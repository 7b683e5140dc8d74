"""Keys and values copied into tile order, so that the kernel reads whole tiles by tensor descriptors (TMA).

The copies of all heads would be two thirds of q, k and v; a tenth is allowed, so few heads are packed at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..lists import TileLists
from .launcher import Launch, Launcher

MOST_EXTRA = 0.1  # of the memory of q, k and v


def packed_groups(
    k: Tensor, v: Tensor, slots: Tensor, lists: TileLists, launcher: Launcher
) -> Iterator[tuple[Tensor, object, object]]:
    """Groups of slots, each with descriptors of its keys and values.

    Both buffers are filled anew for each group: what reads them must be launched before the next group is asked for.

    Args:
        k, v: (B, S, H, D), the last axis contiguous.
        slots: (pairs, 3), see `TileLists.slots`; the grid has at least one full key tile.

    Yields:
        Slots of a group, descriptors of (group * tiled keys, D) for K and for V in blocks of a key tile.
    """
    tokens, head_dim = k.shape[1], k.shape[3]
    tiled = lists.grid.video_tokens // lists.key_tile * lists.key_tile
    size = group_size(k.shape[0] * k.shape[2])
    packed = torch.empty(2, size * tiled, head_dim, dtype=k.dtype, device=k.device)
    for first in range(0, len(slots), size):
        group = slots[first : first + size].clone()  # starts at a multiple of 16 bytes, as every other launch's
        for x, out in zip((k, v), packed, strict=True):
            tables = (group, lists.orders, lists.index)
            constants = {"HEAD_DIM": head_dim, "KEY_TILE": lists.key_tile}
            grid = (tiled // lists.key_tile, len(group))
            launcher(Launch("pack_tiles", grid, (x, out, *tables, *x.stride()[:3], tokens), constants, warps=4))
        yield group, *(_descriptor(out, lists.key_tile) for out in packed)


def group_size(pairs: int) -> int:
    """Heads whose keys and values take up to MOST_EXTRA of q, k and v; at least one."""
    return max(1, int(MOST_EXTRA * 3 / 2 * pairs))


def _descriptor(x: Tensor, rows: int) -> object:
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(x, [rows, x.shape[1]])
