"""A self-attention call of the model, what a policy may decide about it, and what a run asks of a policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ....kernels.attention import AUTO
from ....kernels.grid import TokenGrid
from ....kernels.lists import TileLists
from ..core.fallback import Dense

DENSE, EXACT, INT8 = "dense", "exact", "int8"
KERNELS = (EXACT, INT8)
"""Names of kernels: in the dtype of q, and with q k^T in 8 bits."""


Own = tuple[Callable, Callable | None]
"""The model's own attention, undecorated, and the override that was there before ours, None if none was."""


@dataclass
class Call:
    """One call.

    Attributes:
        layer: number of the block that calls, None where it is unknown, COUNTED where compiled code
            leaves it to the run (`block_tracker.py`).
        grid: how its tokens lie.
        q, k, v: (B, S, H, D).
        mask: a mask of keys, as `text_mask.is_key_mask` says; None without one.
        again: computes the same call the model's own way, for timing; None where that cannot be had.
        key_bias: what `text_mask.text_bias` made of the mask, (B, prefix + suffix) float32.
        heads: numbers of its heads in the model, None where it has all of them.
        decided: how it is computed, None where the policy has to say it.
    """

    layer: int | None
    grid: TokenGrid
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None = None
    again: Callable[[], object] | None = None
    key_bias: Tensor | None = None
    heads: tuple[int, ...] | None = None
    decided: Sparse | None = None


def split_heads(x: Tensor, heads: int, by_head: bool) -> Tensor:
    """(B, S, H*D), or (B, H, S, D) when `by_head`, as a view (B, S, H, D)."""
    return x.transpose(1, 2) if by_head else x.unflatten(-1, (heads, -1))


def merge_heads(x: Tensor, by_head: bool) -> Tensor:
    """(B, S, H, D) as (B, S, H*D), or (B, H, S, D) when `by_head`."""
    return x.transpose(1, 2) if by_head else x.flatten(2)


class Tuner(Protocol):
    """Decides which way is the fastest; `policies/kernel_tuner.py`. It measures nothing: the run gives it all times."""

    def place(self, grid: TokenGrid, q: Tensor, masked: bool, own: Own | None) -> object:
        """All that a call's speed depends on but its density, for q (B, S, H, D) and the model's own attention."""

    def begin_timing(self, place: object, lane: str) -> bool:
        """Whether one more call is to be timed; counts it as begun, so ask only where it can be timed."""

    def measured(self, place: object, lane: str) -> Callable[[float], None]:
        """Takes the milliseconds of a call that was begun."""

    def compared(self, place: object, lane: str, error: Tensor) -> None:
        """Takes the relative error of a kernel's output, one number on the device."""

    def drop(self, kernel: str, backend: str) -> None:
        """Leave out a kernel that failed."""

    def verdict(self, place: object, density: float, kernels: tuple[str, ...], backend: str) -> str | None:
        """The way to compute calls of a density: a kernel's name or DENSE; None until all were timed."""

    def count(self, place: object, density: float, backend: str) -> None:
        """Count a call that went by a verdict."""

    def lane(self, kernel: str, density: float, backend: str = "") -> str:
        """Name of a kernel's measurements at a density. Those of the model's own attention are called DENSE."""

    def speedup(self, calls: int) -> float | None:
        """How many times as fast as dense so many calls were, None where nothing was timed."""


@dataclass(frozen=True, eq=False)
class Sparse:
    """The decision to compute a call by tile lists. A policy makes one for all calls that are alike.

    Attributes:
        lists: of the call's grid, on its device.
        head_lists: number of a list for each head.
        density: mean over the heads.
        backend: name for `kernels.attention`.
        tuner: finds the fastest kernel, or that none is faster than the model's own attention; None takes the exact
            kernel untimed.
    """

    lists: TileLists
    head_lists: tuple[int, ...]
    density: float
    backend: str = AUTO
    tuner: Tuner | None = None


@dataclass(frozen=True, eq=False)
class Computed:
    """An output (B, S, H, D) that was computed while a call was measured, of this density, and by what."""

    out: Tensor
    density: float
    by: str


class Observer(Protocol):
    """Measures calls beside what a policy decides about them. The run times it."""

    name: str
    """What its time is called in reports."""

    def take(self, call: Call) -> bool:
        """Whether a call is to be measured; counts why it cannot be."""

    def observe(self, call: Call) -> None:
        """Measure a call that was taken."""

    def spent(self, milliseconds: float) -> None:
        """Takes the time of a call that was measured."""


class Policy(Protocol):
    """Decides about the self-attention calls of one run. It executes, times and counts nothing.

    Runs of several GPUs share it: they ask one at a time, at the same noise levels, and the observer sees the calls of
    the first GPU alone.

    Attributes:
        title: what reports call it: family and plan.
        plan_name: the plan in a few words, for the first line of a report.
        remark: what the user should know of a run that went well, a sentence; may be empty.
        expected: how far its video is from the dense one, a sentence; may be empty.
        shape: (layers, heads) of the model.
        tuner: that wants times of the model's own attention, None for none.
        observer: that measures calls, None for none.
    """

    title: str
    plan_name: str
    remark: str
    expected: str
    shape: tuple[int, int]

    @property
    def tuner(self) -> Tuner | None: ...

    @property
    def observer(self) -> Observer | None: ...

    def begin_step(self, sigma: float) -> Dense | None:
        """A forward at this noise level begins: why all of it stays dense, None when it does not."""

    def try_kernels(self, device: torch.device, dtype: torch.dtype) -> None:
        """Find out before sampling which kernels can be trusted, on the device and in the dtype of the model."""

    def prepare(self, grid: TokenGrid, batch: int, device: torch.device) -> None:
        """Build what depends on the token grid and the batch, before the first block."""

    def decide(self, call: Call) -> Sparse | Computed | Dense:
        """What to do with a call whose layer is known."""

    def failed(self) -> None:
        """Sparse attention has failed for good, perhaps for want of memory."""

    def summary(self) -> str:
        """What the report says of it beside the title; empty for nothing."""

    def advice(self) -> Dense | None:
        """Why nothing ran sparse, None where the reasons of dense calls say it."""

    def detail(self) -> dict:
        """What the detailed report says of it, for JSON."""

    def free(self) -> None:
        """Drop every tensor on a device."""
