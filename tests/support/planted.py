"""Heads whose right pattern is known: random q, k, v with a planted structure, on any grid."""

from __future__ import annotations

import torch
from sparse_vdit.kernels.grid import TokenGrid
from torch import Tensor

KINDS = ("dense", "skip", "diagonal", "multi_diagonal", "vertical_stripe")


def planted_head(
    kind: str, grid: TokenGrid, head_dim: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (S, D) of one head of a kind.

    diagonal: all tokens of the own frame alike; multi-diagonal: the own place in all frames; vertical stripe: the first
    frame, from everywhere; dense: a few keys scattered at random for each query; skip: any attention, tiny values.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def codes(count: int) -> Tensor:
        return torch.nn.functional.normalize(normal(count, head_dim), dim=-1)

    tokens, video = grid.tokens, slice(grid.prefix, grid.prefix + grid.video_tokens)
    raster = torch.arange(grid.video_tokens)
    frame, place = raster // (grid.height * grid.width), raster % (grid.height * grid.width)
    strength = 10 + 4 * torch.rand((), generator=generator)
    sharp = (strength * head_dim**0.5) ** 0.5  # two equal codes then score `strength`
    q, k, v = 0.3 * normal(tokens, head_dim), 0.3 * normal(tokens, head_dim), normal(tokens, head_dim)
    if kind in ("diagonal", "multi_diagonal"):
        own = codes(grid.frames)[frame] if kind == "diagonal" else codes(grid.height * grid.width)[place]
        q[video] += sharp * own
        k[video] += sharp * own
    elif kind == "vertical_stripe":
        direction = codes(1)
        q[video] += sharp * direction
        k[video] += sharp * direction * (frame == 0)[:, None]
    elif kind == "dense":
        q[video], k[video] = 1.5 * normal(grid.video_tokens, head_dim), 1.5 * normal(grid.video_tokens, head_dim)
    elif kind == "skip":
        v *= 1e-3
    return q, k, v
