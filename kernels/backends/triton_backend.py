"""The Triton backend: one launch per layer, every head with its own tile list and token order. Where keys and values
are copied into tile order first (`tile_copies.py`), one launch per group of heads.

Launches are separate from the kernels (`triton_kernels/`), so that this file and its refusals import without Triton,
and from who launches, so that `compiled_backend.py` shares them.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import sys
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from ..call import AttentionCall
from ..configs import DTYPES, HEAD_DIMS, NO_INT8, KernelConfig, device_arch, kernel_config
from ..lists import TileLists
from ..routing import Routing, score_chunks
from ..tiling import KEY_TILE, QUERY_TILE
from .launcher import SELECT_BLOCK, Launch, Launcher, through_triton
from .tile_copies import TileCopies, tile_copies

TRITON_FOUND = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # the tests run the kernels without a GPU
INTERPRETED_ARCH = "sm_80"
LARGEST = 2**31  # what the kernels count in 32 bits
UNIT = 8  # elements of 16 bytes, in which they count from row to row
# the minor version that each torch was released with; others take the newest
TRITON_OF_TORCH = {
    ("2", "6"): "3.2", ("2", "7"): "3.3", ("2", "8"): "3.4", ("2", "9"): "3.5",
    ("2", "10"): "3.6", ("2", "11"): "3.6", ("2", "12"): "3.7", ("2", "13"): "3.7",
}  # fmt: skip


def refusal(call: AttentionCall) -> str | None:
    """Why this backend cannot run a call, in words; None when it can."""
    device = call.q.device
    if device.type != "cuda" and not INTERPRETED:
        return f"device {device.type} has no Triton kernels"
    if not TRITON_FOUND:
        return f"Triton is not installed: {install_line()}"
    reason = unsuited(call, _arch(device))
    if reason is not None or INTERPRETED:
        return reason
    if sys.platform == "linux" and not _has_compiler():
        return "Triton needs a C compiler to start its kernels: install gcc"
    if device_arch(device) is None:
        name = torch.cuda.get_device_name(device)
        return f"there are no kernels for {name}: NVIDIA from RTX 30 or A100 on, AMD MI300, RX 7000 and RX 9000"
    return None


def needs_self_test(device: torch.device) -> bool:
    """Whether kernels have to pass a self-test before they are used: on a GPU, where the tests may never have run."""
    return not INTERPRETED


def install_line(system: str = sys.platform, torch_version: str = torch.__version__) -> str:
    """The command that installs the Triton that belongs to this torch, for this Python."""
    package = "triton-windows" if system == "win32" else "triton"
    version = TRITON_OF_TORCH.get(tuple(torch_version.split(".")[:2]))
    return f'"{sys.executable}" -m pip install ' + (f'"{package}=={version}.*"' if version else package)


def unsuited(call: AttentionCall, arch: str | None) -> str | None:
    """Why the kernels of an architecture cannot run a call, in words; None when they can."""
    q = call.q
    if q.dtype not in DTYPES:
        return f"dtype {str(q.dtype).removeprefix('torch.')} is neither bfloat16 nor float16"
    if q.shape[-1] not in HEAD_DIMS:
        return f"head_dim {q.shape[-1]} is neither 64 nor 128"
    if (call.lists.query_tile, call.lists.key_tile) != (QUERY_TILE, KEY_TILE):
        tiles = f"{call.lists.query_tile} x {call.lists.key_tile}"
        return f"tiles are {tiles}, the kernel's are {QUERY_TILE} x {KEY_TILE}"
    if call.int8 and arch in NO_INT8:
        return f"attention in 8 bits is slower than exact attention on {arch}"
    return None


def _arch(device: torch.device) -> str | None:
    return INTERPRETED_ARCH if INTERPRETED else device_arch(device)


@cache
def _has_compiler() -> bool:
    return bool(os.environ.get("CC")) or any(shutil.which(name) for name in ("gcc", "clang"))


def attention(call: AttentionCall) -> Tensor:
    """Output (B, S, H, D), contiguous, of a call that `refusal` has nothing against."""
    return run(call, _arch(call.q.device), through_triton)


def choose(call: AttentionCall, routing: Routing, kv_indices: Tensor) -> None:
    """Choose the tiles of routed heads, see `routing.Choose`."""
    launched_choice(call, routing, kv_indices, through_triton)


def launched_choice(call: AttentionCall, routing: Routing, kv_indices: Tensor, launcher: Launcher) -> None:
    """Choose the tiles of routed heads by kernels: means of q and k, their products, the largest of each row."""
    lists = call.lists
    q_means, k_means = (
        tile_means(aligned(x), routing.members, lists, tile, launcher)
        for x, tile in ((call.q, lists.query_tile), (call.k, lists.key_tile))
    )
    for first, scores in score_chunks(call, q_means, k_means):
        numbers = (routing.first + first, routing.starts.shape[1], scores.shape[2])
        arguments = (scores, kv_indices, routing.starts, routing.kv_num_blocks, *numbers)
        launcher(Launch("select_tiles", (scores.shape[1], len(scores)), arguments, {"BLOCK": SELECT_BLOCK}, warps=4))


def run(call: AttentionCall, arch: str, launcher: Launcher, config: KernelConfig | None = None) -> Tensor:
    """Output (B, S, H, D), contiguous, by the kernels of an architecture, however they are launched.

    Args:
        config: instead of the architecture's own, for measuring others.
    """
    q, k, v = (aligned(x) for x in (call.q, call.k, call.v))
    call = replace(call, q=q, k=k, v=v)
    config = config or kernel_config(arch, q.shape[-1], call.int8)
    if config.packed and call.lists.grid.video_tokens < call.lists.key_tile:
        config = replace(config, packed=False)
    slots = call.lists.slots(call.pair_lists, q.shape[2])
    live = sum(call.lists.densities[number] > 0 for number in call.pair_lists)  # skipped heads come last
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for copies in tile_copies(call, config, slots, live, launcher):
        launcher(attention_launch(call, out, slots, copies, config))
    return out


def aligned(x: Tensor) -> Tensor:
    """x (B, S, H, D) as the kernels address it: rows in units of 16 bytes, numbers in 32 bits. A copy where x starts or
    steps oddly, or lies too far apart."""
    x = plain_strides(x)
    numbers = (x.data_ptr(), *x.stride()[:3])
    fits = x.stride(-1) == 1 and not any(number % 16 for number in numbers)
    near = max(x.stride()) < LARGEST and x.shape[1] * x.stride(1) < UNIT * LARGEST
    return x if fits and near else x.clone(memory_format=torch.contiguous_format)


def plain_strides(x: Tensor) -> Tensor:
    """x with a stride of 0 for axes of size 1. Nothing reads it, but Triton would compile once more for an odd one."""
    strides = [0 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(x.shape, strides)


def attention_launch(
    call: AttentionCall, out: Tensor, slots: Tensor, copies: TileCopies, config: KernelConfig
) -> Launch:
    """The launch that fills the heads of `copies` in out (B, S, H, D), contiguous."""
    q, k, v, lists = call.q, call.k, call.v, call.lists
    _, tokens, heads, head_dim = q.shape
    zero = lists.zero()  # stands for a pointer that the kernel does not follow; its type has to be the right one
    arguments = (
        q, k, v, _or(copies.k_tiles, k), _or(copies.v_tiles, v), out,
        slots, lists.starts, lists.kv_num_blocks, lists.kv_indices, lists.orders, lists.index,
        zero if call.key_bias is None else call.key_bias.float().contiguous(),
        _or(copies.k_scale, zero), _or(copies.v_largest, zero),
        head_dim**-0.5 * math.log2(math.e),
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        copies.first, heads, tokens, lists.grid.video_tokens, int(call.key_bias is not None),
    )  # fmt: skip
    constants = {
        "HEAD_DIM": head_dim, "QUERY_TILE": lists.query_tile, "KEY_TILE": lists.key_tile, "ROWS": config.rows,
        "STAGES": config.stages, "INT8": call.int8, "FP16_SUMS": config.fp16_sums,
        "OFFSET_SUMS": config.offset_sums, "UPCAST": INTERPRETED and q.dtype == torch.bfloat16, "PACKED": config.packed,
        "SEGMENT": config.segment,
    }  # fmt: skip
    grid = (-(-tokens // config.rows) * copies.slots, 1)
    return Launch("attention", grid, arguments, constants, config.warps, config.stages, config.registers)


def _or(tensor: object | None, unused: Tensor) -> object:
    return unused if tensor is None else tensor


def tile_means(x: Tensor, slots: Tensor, lists: TileLists, tile: int, launcher: Launcher) -> Tensor:
    """Means (slots, tiles, D) fp32 of x (B, S, H, D) over full tiles in each slot's token order."""
    tokens, head_dim = x.shape[1], x.shape[3]
    out = torch.empty(len(slots), lists.grid.video_tokens // tile, head_dim, dtype=torch.float32, device=x.device)
    arguments = (x, out, slots, lists.orders, lists.index, *x.stride()[:3], tokens)
    constants = {"HEAD_DIM": head_dim, "TILE": tile}
    launcher(Launch("tile_means", (out.shape[1], len(slots)), arguments, constants, warps=4))
    return out
