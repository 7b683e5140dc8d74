"""The Triton backend: one launch per layer, every head with its own tile list and token order.

Launching is separate from the kernel (`triton_kernel.py`), so that this file and its refusals import without Triton.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from ..lists import TileLists
from ..tiling import KEY_TILE, QUERY_TILE

TRITON_FOUND = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # the tests run the kernel without a GPU
HEAD_DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)
LEAST_CAPABILITY = (8, 0)  # Triton compiles no tensor-core code for older NVIDIA cards


@dataclass(frozen=True)
class LaunchConfig:
    """Warps and pipeline stages of one program; no autotuning, so that no first call stalls for minutes."""

    warps: int
    stages: int


# 128 query rows x 64 keys: fits the shared memory of every target (96 KB at head_dim 128); fewer warps would spill
CONFIGS = {64: LaunchConfig(warps=8, stages=3), 128: LaunchConfig(warps=8, stages=3)}


def refusal(q: Tensor, lists: TileLists) -> str | None:
    """Why this backend cannot run a call with q (B, S, H, D), in words; None when it can."""
    if not TRITON_FOUND:
        return "Triton is not installed (on Windows: pip install triton-windows)"
    if q.dtype not in DTYPES:
        return f"dtype {str(q.dtype).removeprefix('torch.')} is neither bfloat16 nor float16"
    if q.shape[-1] not in HEAD_DIMS:
        return f"head_dim {q.shape[-1]} is neither 64 nor 128"
    if (lists.query_tile, lists.key_tile) != (QUERY_TILE, KEY_TILE):
        return f"tiles are {lists.query_tile} x {lists.key_tile}, the kernel's are {QUERY_TILE} x {KEY_TILE}"
    if q.device.type != "cuda":
        return f"device {q.device.type} has no Triton kernels"
    if torch.version.hip is None and torch.cuda.get_device_capability(q.device) < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name(q.device)} is older than compute capability 8.0"
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, lists: TileLists, head_lists: list[int]) -> Tensor:
    """Attention of q, k, v (B, S, H, D), last dimension contiguous, one list per head -> (B, S, H, D) contiguous."""
    from .triton_kernel import block_sparse_fwd_kernel

    batch, tokens, heads, head_dim = q.shape
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    slots = launch_slots(lists, head_lists).to(q.device)
    tiled_keys = lists.grid.video_tokens // lists.key_tile * lists.key_tile
    rows = lists.starts.shape[1]
    config = CONFIGS[head_dim]
    launch_grid = (-(-tokens // lists.query_tile), batch * heads)
    block_sparse_fwd_kernel[launch_grid](
        q, k, v, out, slots, lists.starts, lists.counts, lists.columns, lists.orders, lists.index,
        head_dim**-0.5 * 1.4426950408889634,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        heads, tokens, tiled_keys, rows,
        HEAD_DIM=head_dim, QUERY_TILE=lists.query_tile, KEY_TILE=lists.key_tile, STAGES=config.stages,
        UPCAST=INTERPRETED and q.dtype == torch.bfloat16,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return out


def launch_slots(lists: TileLists, head_lists: list[int]) -> Tensor:
    """(heads, 2) int32 of (head, list), densest first, so that the launch does not end on its longest heads."""
    order = sorted(range(len(head_lists)), key=lambda head: -lists.densities[head_lists[head]])
    return torch.tensor([(head, head_lists[head]) for head in order], dtype=torch.int32)
