"""The Triton backend: one launch per layer, every head with its own tile list and token order. Where keys and values
are packed (`packing.py`), one launch per group of heads.

Preparation and launches are separate from the kernels (`triton_kernels/`), so that this file and its refusals import
without Triton, and from who launches, so that `compiled_backend.py` shares them.
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
from ..configs import DTYPES, HEAD_DIMS, KernelConfig, device_arch, kernel_config
from ..lists import TileLists
from ..tiling import KEY_TILE, QUERY_TILE
from .launcher import Launch, Launcher, launch_failure, through_triton
from .packing import packed_groups

TRITON_FOUND = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # the tests run the kernels without a GPU
INTERPRETED_ARCH = "sm_80"
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
    reason = unsuited(call)
    if reason is not None or INTERPRETED:
        return reason
    if sys.platform == "linux" and not _has_compiler():
        return "Triton needs a C compiler to start its kernels: install gcc"
    if device_arch(device) is None:
        name = torch.cuda.get_device_name(device)
        return f"there are no kernels for {name}: NVIDIA from RTX 30 or A100 on, AMD MI300 and RX 9000"
    return _launch_failure(device)


def install_line(system: str = sys.platform, torch_version: str = torch.__version__) -> str:
    """The command that installs the Triton that belongs to this torch, for this Python."""
    package = "triton-windows" if system == "win32" else "triton"
    version = TRITON_OF_TORCH.get(tuple(torch_version.split(".")[:2]))
    return f'"{sys.executable}" -m pip install ' + (f'"{package}=={version}.*"' if version else package)


def unsuited(call: AttentionCall) -> str | None:
    """Why the kernels cannot run a call on any device, in words; None when they can."""
    q = call.q
    if q.dtype not in DTYPES:
        return f"dtype {str(q.dtype).removeprefix('torch.')} is neither bfloat16 nor float16"
    if q.shape[-1] not in HEAD_DIMS:
        return f"head_dim {q.shape[-1]} is neither 64 nor 128"
    if (call.lists.query_tile, call.lists.key_tile) != (QUERY_TILE, KEY_TILE):
        tiles = f"{call.lists.query_tile} x {call.lists.key_tile}"
        return f"tiles are {tiles}, the kernel's are {QUERY_TILE} x {KEY_TILE}"
    return None


@cache
def _has_compiler() -> bool:
    return bool(os.environ.get("CC")) or any(shutil.which(name) for name in ("gcc", "clang"))


@cache
def _launch_failure(device: torch.device) -> str | None:
    return launch_failure(device)


def attention(call: AttentionCall) -> Tensor:
    """Output (B, S, H, D), contiguous, of a call that `refusal` has nothing against."""
    return run(call, INTERPRETED_ARCH if INTERPRETED else device_arch(call.q.device), through_triton)


def means(call: AttentionCall, x: Tensor, tile: int) -> Tensor:
    """Means over tiles for routing, see `routing.routed_call`."""
    return launched_means(call, x, tile, through_triton)


def launched_means(call: AttentionCall, x: Tensor, tile: int, launcher: Launcher) -> Tensor:
    """Means (B*H, tiles, D) of x (B, S, H, D) in each head's token order, in the dtype of x."""
    x = plain_strides(x if x.stride(-1) == 1 else x.contiguous())
    return tile_means(x, call.lists.slots(call.pair_lists, x.shape[2]), call.lists, tile, launcher)


def run(call: AttentionCall, arch: str, launcher: Launcher, config: KernelConfig | None = None) -> Tensor:
    """Output (B, S, H, D), contiguous, by the kernels of an architecture, however they are launched.

    Args:
        config: instead of the architecture's own, for measuring others.
    """
    q, k, v = (plain_strides(x if x.stride(-1) == 1 else x.contiguous()) for x in (call.q, call.k, call.v))
    config = config or kernel_config(arch, q.shape[-1], call.int8, call.tail)
    slots = call.lists.slots(call.pair_lists, q.shape[2])
    prepared = Prepared(k, v, slots, call, config, launcher)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if config.packed:
        if call.tail:
            raise ValueError("packed keys and values with a tail: that spills, use another configuration")
        live = live_slots(slots, call) if call.lists.grid.video_tokens >= call.lists.key_tile else slots[:0]
        for group, k_tiles, v_tiles in packed_groups(k, v, live, call.lists, launcher):
            launcher(attention_launch(q, k, v, out, group, call, prepared, config, k_tiles, v_tiles))
        slots, config = slots[len(live) :].clone(), replace(config, packed=False)  # a copy starts at 16 bytes
    if len(slots):
        launcher(attention_launch(q, k, v, out, slots, call, prepared, config))
    return out


def live_slots(slots: Tensor, call: AttentionCall) -> Tensor:
    """Slots of the heads that attend anything: skipped ones come last and need nothing, unless they have text rows."""
    return slots[: sum(call.lists.densities[number] > 0 for number in call.pair_lists)]


def plain_strides(x: Tensor) -> Tensor:
    """x with a stride of 0 for axes of size 1: nobody follows it, but an odd one would be another binary or a copy."""
    strides = [0 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(x.shape, strides)


class Prepared:
    """What is made of k and v before attention: 8-bit keys, means of tiles. Nothing of it for the plain kernel."""

    def __init__(
        self, k: Tensor, v: Tensor, slots: Tensor, call: AttentionCall, config: KernelConfig, launcher: Launcher
    ):
        slots = live_slots(slots, call)
        self.key_bias = self.k_int8 = self.k_scale = self.v_scale = self.k_means = self.v_means = self.kept = None
        lists, (batch, tokens, heads, head_dim) = call.lists, k.shape
        if call.key_bias is not None:
            self.key_bias = text_bias(call.key_bias, lists)
        mean = k.mean(1, dtype=torch.float32).contiguous() if call.int8 else None
        if call.int8:
            self.k_int8 = torch.empty(batch * heads, tokens, head_dim, dtype=torch.int8, device=k.device)
            tiles = -(-tokens // lists.key_tile)
            self.k_scale = torch.empty(batch * heads, tiles, dtype=torch.float32, device=k.device)
            if len(slots):
                launcher(quantize_launch(k, mean, self.k_int8, self.k_scale, slots, lists))
        if config.pv == "fp8":
            self.v_scale = torch.maximum(v.amax(1), -v.amin(1)).float().clamp_min(1e-12).contiguous()
        if call.tail:
            self.k_means = tile_means(k, slots, lists, lists.key_tile, launcher, mean)
            self.v_means = tile_means(v, slots, lists, lists.key_tile, launcher)
            self.kept = lists.kept()


def attention_launch(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, slots: Tensor, call: AttentionCall, prepared: Prepared,
    config: KernelConfig, k_tiles: object = None, v_tiles: object = None,
) -> Launch:  # fmt: skip
    """The launch that fills the heads of slots in out (B, S, H, D); k_tiles and v_tiles are of `packed_groups`."""
    lists, (tokens, heads, head_dim) = call.lists, q.shape[1:]
    tiles = lists.grid.video_tokens // lists.key_tile
    arguments = (
        q, k, v, _or(k_tiles, k), _or(v_tiles, v), out,
        slots, lists.starts, lists.counts, lists.columns, lists.orders, lists.index,
        _or(prepared.key_bias, lists.zero()), _or(prepared.k_int8, slots), _or(prepared.k_scale, slots),
        _or(prepared.v_scale, slots), _or(prepared.k_means, q), _or(prepared.v_means, q), _or(prepared.kept, slots),
        head_dim**-0.5 * math.log2(math.e),
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        heads, tokens, lists.grid.video_tokens, tiles * lists.key_tile, lists.starts.shape[1], tiles,
        int(prepared.key_bias is not None),
    )  # fmt: skip
    constants = {
        "HEAD_DIM": head_dim, "QUERY_TILE": lists.query_tile, "KEY_TILE": lists.key_tile, "ROWS": config.rows,
        "STAGES": config.stages, "INT8": call.int8, "PV": config.pv, "TAIL": call.tail,
        "UPCAST": INTERPRETED and q.dtype == torch.bfloat16, "PACKED": config.packed,
    }  # fmt: skip
    grid = (-(-tokens // config.rows) * len(slots), 1)
    return Launch("attention", grid, arguments, constants, config.warps, config.stages)


def _or(tensor: object, unused: Tensor) -> object:
    """A pointer that the kernel never follows where there is nothing to point at. Where the kernel is the same with
    and without, it has to be of the same type: another would be another binary."""
    return unused if tensor is None else tensor


def text_bias(key_bias: Tensor, lists: TileLists) -> Tensor:
    """(B, prefix + suffix) as the kernel reads it: one for each text token, in units of log 2."""
    return (key_bias.float() * math.log2(math.e)).clamp_min(-1e30).contiguous()


def quantize_launch(
    k: Tensor, mean: Tensor, k_int8: Tensor, k_scale: Tensor, slots: Tensor, lists: TileLists
) -> Launch:
    """The launch that fills k_int8 (B*H, S, D) and k_scale (B*H, tiles) from k (B, S, H, D) and its mean (B, H, D), in
    tile order."""
    heads, tokens, head_dim = k.shape[2], k.shape[1], k.shape[3]
    tables = (slots, lists.orders, lists.index)
    arguments = (k, mean, k_int8, k_scale, *tables, *k.stride()[:3], heads, tokens)
    constants = {"HEAD_DIM": head_dim, "KEY_TILE": lists.key_tile}
    return Launch("quantize_keys", (k_scale.shape[1], slots.shape[0]), arguments, constants, warps=4)


def tile_means(
    x: Tensor, slots: Tensor, lists: TileLists, tile: int, launcher: Launcher, shift: Tensor | None = None
) -> Tensor:
    """Means (B*H, tiles, D) of x (B, S, H, D) over full tiles in each head's token order, less shift (B, H, D)."""
    batch, tokens, heads, head_dim = x.shape
    tiles = lists.grid.video_tokens // tile
    out = torch.empty(batch * heads, tiles, head_dim, dtype=x.dtype, device=x.device)
    if tiles and len(slots):
        tables = (slots, lists.orders, lists.index)
        arguments = (x, _or(shift, lists.zero()), out, *tables, *x.stride()[:3], heads, tokens, int(shift is not None))
        constants = {"HEAD_DIM": head_dim, "TILE": tile}
        launcher(Launch("tile_means", (tiles, len(slots)), arguments, constants, warps=4))
    return out
