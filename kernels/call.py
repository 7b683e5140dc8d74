"""The arguments of one call of sparse attention, checked before any backend runs, so that no kernel reads out of
bounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .lists import TileLists

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class AttentionCall:
    """One layer's self-attention, every head with its own tile list.

    Attributes:
        q, k, v: (B, S, H, D) of one shape, dtype and device, any strides, so that (B, H, S, D) is a transposed view;
            S is `lists.grid.tokens`.
        lists: tile lists on the device of q.
        head_lists: number of a list for each head, or for each (batch, head).
        key_bias: (B, prefix + suffix) floats, added to the scores of the text keys before the softmax: -inf hides a
            key. Every query must keep a key that is not hidden, and NaN gives NaN.
        int8: q k^T in 8 bits (SageAttention, arXiv 2410.02367), where the backend can.

    Raises:
        ValueError: anything else; the message names the value.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    lists: TileLists
    head_lists: tuple[int, ...]
    key_bias: Tensor | None = None
    int8: bool = False

    def __post_init__(self) -> None:
        q, k, v, lists = self.q, self.k, self.v, self.lists
        if not isinstance(lists, TileLists):
            raise ValueError(f"lists is a {type(lists).__name__}, expected what TileListBuilder.build() gives")
        if q.ndim != 4 or not q.shape == k.shape == v.shape or 0 in q.shape:
            shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
            raise ValueError(f"q, k, v are {shapes}, expected one (B, S, H, D), none of them 0")
        if not q.dtype == k.dtype == v.dtype or q.dtype not in DTYPES:
            raise ValueError(
                f"q, k, v are {q.dtype}, {k.dtype}, {v.dtype}, expected one floating-point dtype of 16, 32 or 64 bits"
            )
        if not q.device == k.device == v.device == lists.kv_indices.device:
            devices = ", ".join(str(x.device) for x in (q, k, v, lists.kv_indices))
            raise ValueError(f"q, k, v and the tile lists are on {devices}, expected one device")
        if q.shape[1] != lists.grid.tokens:
            tokens = f"{lists.grid} = {lists.grid.tokens}"
            hint = "; is q (B, H, S, D)? Give a transposed view" if q.shape[2] == lists.grid.tokens else ""
            raise ValueError(f"sequence has {q.shape[1]} tokens, the tile lists are for {tokens}{hint}")
        heads, pairs = q.shape[2], q.shape[0] * q.shape[2]
        known = range(len(lists.densities))
        whole = all(type(number) is int and number in known for number in self.head_lists)
        if len(self.head_lists) not in (heads, pairs) or not whole:
            raise ValueError(
                f"head_lists {list(self.head_lists)} do not give one of {len(known)} lists to each of {heads} heads"
            )
        self._check_bias()

    def _check_bias(self) -> None:
        if self.key_bias is None:
            return
        if not isinstance(self.key_bias, Tensor):
            raise ValueError(f"key_bias is a {type(self.key_bias).__name__}, expected a tensor")
        wanted = (self.q.shape[0], self.lists.grid.prefix + self.lists.grid.suffix)
        if tuple(self.key_bias.shape) != wanted or self.key_bias.device != self.q.device:
            raise ValueError(
                f"key_bias is {tuple(self.key_bias.shape)} on {self.key_bias.device}, expected {wanted} (batch, text "
                f"tokens) on {self.q.device}"
            )
        if not self.key_bias.dtype.is_floating_point:
            kind = "a bool mask" if self.key_bias.dtype == torch.bool else str(self.key_bias.dtype)
            raise ValueError(f"key_bias is {kind}, expected floats: 0 for keys that count, -inf for others")
        text_only = [number for number in self.head_lists if self.lists.text_only()[number]]
        if text_only:
            raise ValueError(f"list {text_only[0]} has queries that attend text alone, which key_bias may hide")

    @property
    def pair_lists(self) -> tuple[int, ...]:
        """Number of a list for each (batch, head)."""
        return self.head_lists * (self.q.shape[0] * self.q.shape[2] // len(self.head_lists))
