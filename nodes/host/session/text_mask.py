"""Masks of attention calls: those that only hide or weigh text keys go to the kernels as a bias, others stay dense."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ....kernels.grid import TokenGrid
from ..core import fallback
from ..core.fallback import Dense


def is_key_mask(mask: Tensor, batch: int, tokens: int) -> bool:
    """Whether a mask, (B, 1, S) or (B, 1, 1, S) with a B that may be 1, is the same for all queries and heads."""
    if mask.ndim not in (3, 4) or mask.shape[-1] != tokens or mask.shape[0] not in (1, batch):
        return False
    return math.prod(mask.shape[1:-1]) == 1 and (mask.dtype == torch.bool or mask.dtype.is_floating_point)


def text_bias(known: dict, mask: Tensor, grid: TokenGrid, batch: int) -> Tensor | Dense:
    """Key bias (batch, prefix + suffix) float32 of a key mask, or why there is none. `known` keeps what was made.

    All blocks of a forward get the same mask: its values, for which a device is waited, are read once.
    """
    # a weak reference keeps the id of a storage from being used again, and holds no memory that ComfyUI may record
    storage = StorageWeakRef(mask.untyped_storage())
    key = (storage, mask.storage_offset(), mask.shape, mask.stride(), mask.dtype, grid, batch)
    if key not in known:
        known[key] = _text_bias(mask, grid, batch)
    return known[key]


def _text_bias(mask: Tensor, grid: TokenGrid, batch: int) -> Tensor | Dense:
    frames, height, width, prefix, suffix = grid
    rows = mask.reshape(mask.shape[0], -1)
    if rows.dtype == torch.bool:
        rows = torch.zeros(rows.shape, device=rows.device).masked_fill(~rows, -torch.inf)
    video = rows[:, prefix : prefix + frames * height * width]
    if bool((video != 0).any()):
        return fallback.MASKED
    text = torch.cat([rows[:, :prefix], rows[:, rows.shape[1] - suffix :]], 1)
    return text.float().expand(batch, -1).contiguous()
