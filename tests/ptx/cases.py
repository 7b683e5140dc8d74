"""Attention calls that the shipped kernels have to get right, by what is special about each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
from sparse_vdit.kernels import oracle
from sparse_vdit.kernels.backends import compiled_backend, shipped
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Pattern, Routed, Skip, VerticalStripe
from sparse_vdit.kernels.routing import Routing, choose_tiles, routed_call
from tolerances import INT8_RELATIVE_L2, RELATIVE_L2, relative_l2
from torch import Tensor

from .card import CAPABILITIES, Card, plugged
from .machine import Machine

DTYPES = {name: dtype for dtype, name in shipped.DTYPE_NAMES.items()}
ATTENTION = "block_sparse_fwd_kernel"


@dataclass(frozen=True)
class Case:
    """Shapes and patterns of a call.

    Attributes:
        layout: how q, k and v lie in memory: `plain`, `fused`, `transposed` or `odd`.
        biased: whether text keys have a bias, which hides every second one.
        scale: of the values.
        sink: nats by which the first text key is above the others; its value is zero. None for no such key.
    """

    grid: TokenGrid
    patterns: tuple[Pattern, ...] = (Diagonal(1), Dense())
    batch: int = 1
    layout: str = "plain"
    biased: bool = False
    scale: float = 1.0
    sink: float | None = None


WHOLE = Case(TokenGrid(3, 9, 15, prefix=31, suffix=40), (Diagonal(0), Dense(), Skip()), biased=True)
"""Every loop of the attention kernels comes round: 6 full key tiles, and 92 keys that are masked."""

CASES = {
    "whole": WHOLE,
    "odd grid": Case(TokenGrid(3, 7, 11)),
    "even grid": Case(TokenGrid(4, 8, 8), (Dense(), Diagonal(0))),
    "text before and after": Case(TokenGrid(4, 8, 10, prefix=9, suffix=40), (MultiDiagonal(), VerticalStripe())),
    "key bias": Case(TokenGrid(3, 9, 13, prefix=5, suffix=8), biased=True),
    "skipped": Case(TokenGrid(3, 7, 11, suffix=2), (Skip(), Diagonal(0), Skip())),
    "routed": Case(TokenGrid(5, 8, 9, suffix=3), (Routed(0.3), Dense(), Routed(0.5))),
    "batch of 2": Case(TokenGrid(3, 7, 11, prefix=3), batch=2, biased=True),
    "fused qkv": Case(TokenGrid(3, 9, 13, suffix=5), layout="fused"),
    "transposed": Case(TokenGrid(3, 9, 13, suffix=5), layout="transposed"),
    "odd slices": Case(TokenGrid(2, 9, 13), layout="odd"),
    "less than a tile": Case(TokenGrid(1, 3, 5, suffix=2)),
    "large values": Case(TokenGrid(3, 7, 11, suffix=2), scale=1e4),
    "small values": Case(TokenGrid(3, 7, 11, suffix=2), scale=1e-3),
    "sink": Case(TokenGrid(3, 7, 11, prefix=3), scale=1024.0, sink=17.0),  # an output above fp16's smallest numbers
    "text rows": Case(TokenGrid(2, 8, 8, prefix=70), (Diagonal(0), Skip())),
}


@dataclass(frozen=True)
class Result:
    """What came out of a call on the machine.

    Attributes:
        error: relative L2 distance to the truth; infinite where a number is not finite.
        allowed: by the table of tolerances.
        chosen_alike: part of the tile numbers of routed heads that torch chooses too; 1 without routed heads.
    """

    out: Tensor
    card: Card
    error: float
    allowed: float
    chosen_alike: float

    @property
    def right(self) -> bool:
        return self.error <= self.allowed and self.chosen_alike == 1


def call_of(case: Case, file: str) -> AttentionCall:
    """The call of a case that a shipped file serves."""
    constants, dtype = shipped.binary(file).constants, DTYPES[file.split("-")[1]]
    builder = TileListBuilder(case.grid)
    lists = tuple(builder.add(pattern) for pattern in case.patterns)
    generator = torch.Generator().manual_seed(5)
    shape = case.batch, case.grid.tokens, len(lists), constants["HEAD_DIM"]
    q, k, v = _tensors(shape, case.layout, dtype, generator)
    bias = None
    if case.biased:
        bias = torch.randn(case.batch, case.grid.text_tokens, generator=generator)
        bias[:, ::2] = -torch.inf
    v.mul_(case.scale)
    if case.sink is not None:
        bias = torch.zeros(case.batch, case.grid.text_tokens)
        bias[:, 0], v[:, 0] = case.sink, 0
    return AttentionCall(q, k, v, builder.build(), lists, bias, constants["INT8"])


def _tensors(shape: tuple[int, ...], layout: str, dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, ...]:
    """q, k, v: apart, of one tensor with all three for each token, by head, or with odd numbers before each row."""
    batch, tokens, heads, head_dim = shape
    if layout == "fused":
        return torch.randn(batch, tokens, 3, heads, head_dim, generator=generator).to(dtype).unbind(2)
    if layout == "transposed":
        return torch.randn(3, batch, heads, tokens, head_dim, generator=generator).to(dtype).transpose(2, 3).unbind()
    odd = 3 if layout == "odd" else 0
    return torch.randn(3, batch, tokens, heads, head_dim + odd, generator=generator).to(dtype)[..., odd:].unbind()


def run(case: Case, file: str, machine: Machine | None = None, **options: object) -> Result:
    """A case by a shipped file, as the pack would run it on the file's card. `options` are those of `DriverLibrary`."""
    call, alike = call_of(case, file), [1.0]

    def choose(call: AttentionCall, routing: Routing, kv_indices: Tensor) -> None:
        expected = kv_indices.clone()
        choose_tiles(call, routing, expected)
        compiled_backend.choose(call, routing, kv_indices)
        alike.append((kv_indices == expected).double().mean().item())

    with plugged(CAPABILITIES[file.split("/")[0]], machine, **options) as card, mock.patch("torch.empty", _poisoned):
        refused = compiled_backend.refusal(call)
        if refused is not None:
            raise RuntimeError(refused)
        call = routed_call(call, choose)
        out = compiled_backend.attention(call)
    if file not in {ran.file for ran in card.runs}:
        raise RuntimeError(f"{file} did not run, but {card.runs}")
    error = relative_l2(out, oracle.call_attention(call)) if torch.isfinite(out).all() else float("inf")
    return Result(out, card, error, INT8_RELATIVE_L2 if call.int8 else RELATIVE_L2[out.dtype], min(alike))


def _poisoned(*size: int, empty: Callable[..., Tensor] = torch.empty, **options: object) -> Tensor:
    """torch.empty with NaN or -1 in it, so that no earlier result stands where a kernel writes nothing."""
    x = empty(*size, **options)
    return x.fill_(torch.nan if x.is_floating_point() else -1)


def attention_files() -> list[str]:
    """Shipped attention kernels."""
    binaries = {name: shipped.binary(name) for name in sorted(shipped.manifest()["files"])}
    return [name for name, one in binaries.items() if one.entry == ATTENTION]


def one_of_each() -> list[str]:
    """One attention kernel for each architecture and head_dim, all dtypes and options among them."""
    groups: dict[tuple[str, int], list[str]] = {}
    for name in attention_files():
        groups.setdefault((name.split("/")[0], shipped.binary(name).constants["HEAD_DIM"]), []).append(name)
    return [files[(number + number // 2) % len(files)] for number, files in enumerate(groups.values())]


def bodies() -> dict[str, list[str]]:
    """Attention kernels that differ, with all files of each: architectures may share their instructions."""
    found: dict[str, list[str]] = {}
    for name in attention_files():
        body = re.sub(r"^\.(version|target) .*$", "", shipped.read_ptx(name).decode(), flags=re.M)
        found.setdefault(body, []).append(name)
    return {same[0]: same for same in found.values()}
