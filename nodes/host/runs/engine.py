"""What a run asks of the plan engine and of the profile engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..families import Layout

if TYPE_CHECKING:
    from .run import Run


@dataclass(frozen=True)
class Call:
    """A self-attention call of the model.

    Attributes:
        layer: number of the block that calls, None where it is unknown.
        layout: of its tokens.
        q, k, v: (B, S, H, D).
        mask: that `text_mask.is_key_mask` said to be one of keys.
        again: computes the same call the model's own way, for timing; None where that cannot be had.
        key_bias: what `text_mask.text_bias` made of the mask, (B, prefix + suffix) float32.
    """

    layer: int | None
    layout: Layout
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None = None
    again: Callable[[], object] | None = None
    key_bias: Tensor | None = None


DenseTimer = Callable[[], Callable[[], None] | None]
"""Begins to time a dense call and gives what ends it, None where no more times are wanted. It holds no tensor."""


NOT_VIEWED = {"view": None, "kept": "", "speedup": None}
"""View of a plan (`plans.view`), what the run kept dense of it, measured speed-up of attention: all unknown."""


class Engine(Protocol):
    """What a run does with a self-attention call: attention by plan, or profiling.

    Attributes:
        title: what reports call it: family and plan.
        shape: (layers, heads) of the model.
    """

    title: str
    shape: tuple[int, int]

    def reason(self, sigma: float) -> str | None:
        """Why a forward at this noise level stays dense, None when it does not. Called once per forward."""

    def try_kernels(self, device: torch.device, dtype: torch.dtype) -> None:
        """Find out before sampling which kernels can be trusted, on the device and in the dtype of the model."""

    def prepare(self, layout: Layout, batch: int, device: torch.device) -> None:
        """Build what depends on the token layout and the batch, before the first block."""

    def attention(self, run: Run, call: Call) -> Tensor | str:
        """Output (B, S, H, D) of a call whose layer is known, or the reason to compute it dense."""

    def dense_timer(self, run: Run, layout: Layout, q: Tensor, masked: bool) -> DenseTimer | None:
        """Of the model's own attention for q, with a mask or without; None where that is of no use."""

    def told(self) -> str:
        """What the report says of it beside the title; empty for nothing."""

    def detail(self) -> dict:
        """What the detailed report says of it, for JSON."""

    def viewed(self) -> dict:
        """What the viewer in the browser shows of it, for JSON: the keys of NOT_VIEWED."""

    def free(self) -> None:
        """Drop every tensor."""
