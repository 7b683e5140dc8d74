"""What kernels are measured on: one shape at one density, and its exact answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.lists import TileLists
from sparse_vdit.kernels.routing import routed_call
from torch import Tensor

from benchmarks.kernels.kernel_shapes import Shape

SAMPLED_ROWS, SAMPLED_HEADS = 48, 4
SEED = 7
FIELD_SHARE = 1.0  # of the part of q and k that neighbours share, beside noise of 1


@dataclass(frozen=True)
class Case:
    """One shape at one density.

    Attributes:
        q, k, v: (1, S, H, D).
        lists: on the device of q.
        head_lists: list of each head, a mix of patterns of about the density.
        routed: number of the routed list of the same density.
        dense: number of the dense list.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    lists: TileLists
    head_lists: tuple[int, ...]
    routed: int
    dense: int
    _truths: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def density(self, kind: str = "lists") -> float:
        """Computed pairs / all pairs of the lists that a method is given, see `Method.truth`."""
        numbers = self.numbers(kind)
        return sum(self.lists.densities[number] for number in numbers) / len(numbers)

    def numbers(self, kind: str) -> tuple[int, ...]:
        """List of each head for one kind of method."""
        every = {"dense": self.dense, "routed": self.routed}
        return (every[kind],) * len(self.head_lists) if kind in every else self.head_lists

    @cached_property
    def sample(self) -> tuple[Tensor, Tensor]:
        """Heads and query positions, spread evenly, that errors are taken from."""
        tokens, heads = self.q.shape[1:3]
        return tuple(
            torch.linspace(0, size - 1, min(size, most)).round().long().to(self.q.device)
            for size, most in ((heads, SAMPLED_HEADS), (tokens, SAMPLED_ROWS))
        )

    def error(self, out: Tensor, kind: str) -> float:
        """||out - exact|| / ||exact|| on sampled heads and rows of out (1, S, H, D)."""
        if kind not in self._truths:
            call = AttentionCall(self.q, self.k, self.v, self.lists, self.numbers(kind))
            self._truths[kind] = exact(routed_call(call), *self.sample)
        heads, rows = self.sample
        truth = self._truths[kind]
        return ((out[0][rows][:, heads].transpose(0, 1).float() - truth).norm() / truth.norm()).item()


def random_qkv(shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (1, S, H, D): noise, and for q and k a smooth field over the video that both share."""
    generator = torch.Generator(device).manual_seed(SEED)
    grid, tokens = shape.grid, shape.grid.tokens
    coarse = [-(-size // step) for size, step in zip(grid.shape, (4, 8, 8), strict=True)]
    q, k, v = (torch.empty(1, tokens, shape.heads, shape.head_dim, device=device, dtype=dtype) for _ in range(3))
    for head in range(shape.heads):
        low = torch.randn(1, shape.head_dim, *coarse, device=device, generator=generator)
        smooth = F.interpolate(low, size=grid.shape, mode="trilinear")[0].flatten(1).T
        for x, share in ((q, FIELD_SHARE), (k, FIELD_SHARE), (v, 0.0)):
            noise = torch.randn(tokens, shape.head_dim, device=device, generator=generator)
            noise[grid.prefix : grid.prefix + grid.video_tokens] += share * smooth / smooth.std()
            x[0, :, head] = noise
    return q, k, v


def exact(call: AttentionCall, heads: Tensor, rows: Tensor) -> Tensor:
    """The answer of a call of batch 1 in fp32 for some heads and query positions: (heads, rows, D)."""
    lists, found = call.lists, []
    for head in heads.tolist():
        number = call.pair_lists[head]
        order = lists.index[lists.order_numbers()[number]].long()
        k, v = (x[0, :, head][order].float() for x in (call.k, call.v))
        keep = listed_keys(lists, number, order.argsort()[rows])
        bias = torch.zeros(keep.shape, device=k.device).masked_fill_(~keep, -torch.inf)
        scores = call.q[0, rows, head].float() @ k.T * k.shape[-1] ** -0.5
        found.append((scores + bias).softmax(-1) @ v)
    return torch.stack(found)


def listed_keys(lists: TileLists, number: int, places: Tensor) -> Tensor:
    """Keys of the sorted sequence that sorted queries attend by a list: bool (places, S)."""
    tiled = lists.grid.video_tokens // lists.key_tile * lists.key_tile
    keep = torch.ones(len(places), lists.grid.tokens, dtype=torch.bool, device=places.device)
    keep[:, :tiled] = False
    row = (places // lists.query_tile).clamp_max(lists.starts.shape[1] - 1)
    parts = zip(lists.starts[number, row].tolist(), lists.kv_num_blocks[number, row].tolist(), strict=True)
    for place, (start, count) in enumerate(parts):
        keep[place, :tiled].view(-1, lists.key_tile)[lists.kv_indices[start : start + count].long()] = True
    return keep
