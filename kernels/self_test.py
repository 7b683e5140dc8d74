"""Runs a backend's kernels once on a small call and compares them with exact attention, before they are trusted."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .call import AttentionCall
from .grid import TokenGrid
from .lists import PREFETCH, TileListBuilder, TileLists
from .memory import out_of_memory
from .oracle import call_attention
from .patterns import Dense, Diagonal, MultiDiagonal, Routed, Skip
from .routing import routed_call

LIMITS = {torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest relative L2 error of a head."""

INT8_LIMIT = 3e-2
MIN_SAME = 0.95
"""Share of the chosen key tiles that torch chooses too. Tiles of almost equal scores may change places."""

GRID = TokenGrid(5, 16, 19, prefix=21, suffix=43)
"""1,584 tokens, 23 key tiles and a ragged end. Rows of 12 tiles and more fill the kernel's pipeline several times."""

HEADS, BATCH = 2, 2


def self_test(
    backend: object, device: torch.device, dtype: torch.dtype, head_dim: int, int8: bool, routed: bool
) -> str | None:
    """Why a backend must not run calls of a kind; None when its output is right.

    Args:
        backend: module with `attention` and `choose`.
        routed: whether one of the heads chooses its key tiles at the call.

    Raises:
        torch.OutOfMemoryError: memory ran out, which says nothing of the kernels.
    """
    try:
        chosen = routed_call(small_call(device, dtype, head_dim, int8, routed), backend.choose)
        expected, truth = _expected(dtype, head_dim, routed)
        if routed:
            found = on_cpu(chosen).lists.kv_indices[-len(expected) :]  # checked there, before a kernel reads them
            same = (found == expected).float().mean().item()
            if same < MIN_SAME:
                return f"its self-test failed: only {same:.0%} of the chosen key tiles are right"
            truth = truth if same == 1 else call_attention(on_cpu(chosen))
        failure = _output_failure(backend.attention(chosen).cpu(), truth, INT8_LIMIT if int8 else LIMITS[dtype])
    except Exception as error:
        if out_of_memory(error):
            raise
        failure = error_line(error)
    return failure and f"its self-test failed: {failure}"


@lru_cache(maxsize=4)
def _expected(dtype: torch.dtype, head_dim: int, routed: bool) -> tuple[Tensor, Tensor]:
    """The last `kv_indices` of the small call (torch chose those of routed heads), and its exact output."""
    plain = small_call(torch.device("cpu"), dtype, head_dim, False, routed)
    call = routed_call(plain)
    return call.lists.kv_indices[len(plain.lists.kv_indices) - PREFETCH :], call_attention(call)


def small_call(device: torch.device, dtype: torch.dtype, head_dim: int, int8: bool, routed: bool) -> AttentionCall:
    """A batch of two with two heads, each of the four with another list; q, k and v are views of one tensor."""
    builder = TileListBuilder(GRID)
    last = Routed(0.55) if routed else MultiDiagonal(0.3, 0.4)
    numbers = tuple(builder.add(pattern) for pattern in (Diagonal(1), Dense(), Skip(), last))
    generator = torch.Generator().manual_seed(11)
    qkv = torch.randn(BATCH, GRID.tokens, 3, HEADS, head_dim, generator=generator)
    q, k, v = qkv.to(device, dtype).unbind(2)
    return AttentionCall(q, k, v, builder.build().to(device), numbers, int8=int8)


def error_line(error: BaseException) -> str:
    """The last line of an error's text, where compilers say what is wrong."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(error).__name__


def _output_failure(out: Tensor, truth: Tensor, limit: float) -> str | None:
    worst = relative_errors(out, truth).max().item()
    if worst <= limit:  # false for NaN too
        return None
    return f"the output is wrong, relative error {worst:.1e}, at most {limit:.0e} is right"


def relative_errors(out: Tensor, truth: Tensor) -> Tensor:
    """||out - truth|| / ||truth|| of each (batch, head) of (B, S, H, D); the norm of out where the truth is zero."""
    difference, size = (x.double().square().sum((1, 3)).sqrt() for x in (out.double() - truth, truth))
    return torch.where(size > 0, difference / size.clamp_min(1e-300), difference)


def on_cpu(call: AttentionCall) -> AttentionCall:
    """The same call on the CPU, its tile lists checked there.

    Raises:
        ValueError: a tile list that names a tile which does not exist.
    """
    lists = call.lists
    checked = TileLists(
        lists.grid, lists.query_tile, lists.key_tile,
        *(getattr(lists, name).cpu() for name in ("kv_indices", "starts", "kv_num_blocks", "orders", "index")),
        densities=lists.densities, routed=lists.routed,
    )  # fmt: skip
    bias = None if call.key_bias is None else call.key_bias.cpu()
    return AttentionCall(call.q.cpu(), call.k.cpu(), call.v.cpu(), checked, call.head_lists, bias, call.int8)
