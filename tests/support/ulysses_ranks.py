"""Cases of sequence parallelism, and a process that computes one rank of all of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import load_pack  # noqa: F401
import torch
import torch.distributed as dist
from sparse_vdit.kernels.attention import sparse_attention
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder, TileLists
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Pattern, Routed, Skip
from sparse_vdit.kernels.sequence_parallel import deal_heads, ulysses_attention
from torch import Tensor

PATTERNS = (Diagonal(0), MultiDiagonal(0.2, 0.2), Dense(), Routed(0.3), Diagonal(1))


@dataclass(frozen=True)
class Case:
    """A sequence [text before | video | text after] whose parts are padded until ranks can share them.

    Attributes:
        grid: without pads.
        patterns: of the heads.
        hidden: text tokens at the end of the text before that a key bias hides.
        parted: whether text and video are sharded apart.
    """

    grid: TokenGrid
    patterns: tuple[Pattern, ...] = PATTERNS
    batch: int = 1
    dtype: torch.dtype = torch.float32
    hidden: int = 0
    parted: bool = False

    @cached_property
    def qkv(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, self.grid.tokens, len(self.patterns), 32)
        return [torch.randn(shape, generator=generator).to(self.dtype) for _ in range(3)]

    def lists(self, grid: TokenGrid) -> tuple[TileLists, tuple[int, ...]]:
        builder = TileListBuilder(grid)
        numbers = tuple(builder.add(pattern) for pattern in self.patterns)
        return builder.build(), numbers

    def bias(self, grid: TokenGrid) -> Tensor | None:
        """Hides text, and what a grid has more than the case's own."""
        bias = torch.zeros(self.batch, grid.prefix + grid.suffix)
        bias[:, self.grid.prefix - self.hidden : grid.prefix] = float("-inf")
        bias[:, grid.prefix + self.grid.suffix :] = float("-inf")
        return bias if bias.any() else None

    def padded(self, ranks: int) -> tuple[TokenGrid, list[int]]:
        """The grid with pads, and tokens of each part on one rank."""
        frames, height, width, prefix, suffix = self.grid
        if self.parted:
            sizes = [prefix, self.grid.tokens - prefix]
            text, video = (-size % ranks for size in sizes)
            parts = [(prefix + text) // ranks, (sizes[1] + video) // ranks]
            return TokenGrid(frames, height, width, prefix + text, suffix + video), parts
        pad = -self.grid.tokens % ranks
        return TokenGrid(frames, height, width, prefix, suffix + pad), [(self.grid.tokens + pad) // ranks]

    def with_pads(self, x: Tensor, grid: TokenGrid) -> Tensor:
        """x (B, S, ...) with other numbers where the padded grid has pads."""
        before, rest = x.split([self.grid.prefix, self.grid.tokens - self.grid.prefix], 1)
        pads = (grid.prefix - self.grid.prefix, grid.suffix - self.grid.suffix)
        made = [x.new_full((x.shape[0], pad, *x.shape[2:]), 3.0) for pad in pads]
        return torch.cat([before, made[0], rest, made[1]], 1)

    def without_pads(self, x: Tensor, grid: TokenGrid) -> Tensor:
        """What `with_pads` was given."""
        end = grid.tokens - grid.suffix + self.grid.suffix
        return torch.cat([x[:, : self.grid.prefix], x[:, grid.prefix : end]], 1)

    def one_process(self, grid: TokenGrid) -> Tensor:
        """Output (B, S, H, D) of the whole sequence in one process, on the case's own grid or the padded one."""
        lists, numbers = self.lists(grid)
        qkv = [self.with_pads(x, grid) for x in self.qkv]
        return sparse_attention(*qkv, lists, numbers, "torch", key_bias=self.bias(grid))


CASES = {
    "odd video": Case(TokenGrid(7, 11, 13)),
    "text after, fewer pads than tokens": Case(TokenGrid(5, 9, 11, 0, 7), batch=2),
    "text and video sharded apart": Case(TokenGrid(7, 11, 13, 6), hidden=2, parted=True),
    "text around the video, half precision": Case(TokenGrid(5, 9, 11, 3, 10), dtype=torch.bfloat16),
    "skipped and routed heads": Case(TokenGrid(5, 9, 12), (Skip(), Routed(0.4), Skip(), Routed(0.1), Dense(), Skip())),
    "all heads alike": Case(TokenGrid(4, 8, 16), (Diagonal(1),) * 4),
}


def shard(x: Tensor, parts: list[int], ranks: int, rank: int) -> Tensor:
    """A rank's tokens of x (B, S, ...): of each part by itself."""
    sizes = [ranks * part for part in parts]
    return torch.cat([part.chunk(ranks, 1)[rank] for part in x.split(sizes, 1)], 1)


def work(rank: int, ranks: int, folder: str) -> None:
    """Compute one rank of all cases, and save the shards by name; then an error that all ranks must have."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, init_method=f"file://{folder}/rendezvous")
    found: dict[str, object] = {}
    for name, case in CASES.items():
        grid, parts = case.padded(ranks)
        lists, numbers = case.lists(grid)
        dealt = deal_heads([lists.densities[number] for number in numbers], ranks)
        qkv = [shard(case.with_pads(x, grid), parts, ranks, rank) for x in case.qkv]
        call = (*qkv, lists, numbers, dealt, parts)
        found[name] = ulysses_attention(*call, backend="torch", key_bias=case.bias(grid))
    wrong = torch.zeros(1, 3)
    try:  # which only some ranks would find by themselves
        ulysses_attention(*call[:4], (0,) * 3 + (9,), *call[5:], backend="torch", key_bias=wrong)
    except ValueError as error:
        found["error"] = str(error)
    torch.save(found, Path(folder, f"rank{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()
