"""What a method of `end_to_end.py` is put on, and how functions of q, k, v become ComfyUI's override of attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from sparse_vdit.kernels.grid import TokenGrid
from torch import Tensor

from benchmarks.models.whole_models import WholeModel


class MissingError(RuntimeError):
    """A method cannot be had here; the message says why."""


@dataclass
class Target:
    """What a method is put on.

    Attributes:
        patcher: a clone of the MODEL, the method's own.
        layout: its token layout: (frames, height, width), tokens before and after.
        plan: `shipped` or a density; None for methods without a plan.
        prepared: whether what the pack makes once for a run is made before its first forward.
        runs: the pack's runs, in the order they end.
        calls: self-attention calls of a forward that a method of others computed itself.
        counted: whether it notes them there.
        note: what is to be said of how the method was put on.
    """

    patcher: object
    model: WholeModel
    device: torch.device
    family: object
    layout: tuple[int, int, int, int, int]
    plan: str | None = None
    prepared: bool = False
    runs: list = field(default_factory=list)
    calls: list = field(default_factory=list)
    counted: bool = False
    note: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(layers, heads, head_dim)."""
        return self.family.shape(self.patcher.model.diffusion_model)

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return TokenGrid(*self.layout).tokens


Attach = Callable[[Target], None]


@dataclass(frozen=True)
class Method:
    """A way to compute attention.

    Attributes:
        attach: puts it on a target; raises MissingError.
        planned: whether it is measured once for each plan.
        dense: whether it counts as dense attention in the model's own precision.
        eight_bits: whether it counts as dense attention in 8 bits.
        steps: of a whole sampler run, 0 for one timed forward.
        only_compiled: measured on models that are to be compiled alone.

    Those of others, not compiled, keep nothing from layer to layer: one layer is enough to warm them up.
    """

    attach: Attach
    planned: bool = False
    dense: bool = False
    eight_bits: bool = False
    steps: int = 0
    only_compiled: bool = False

    @property
    def short_warmup(self) -> bool:
        """Whether the first blocks of a model warm it up."""
        return not (self.planned or self.only_compiled)


def heads_apart(x: Tensor, heads: int, by_head: bool) -> Tensor:
    """ComfyUI's q, k or v, (B, S, H * D) or by head (B, H, S, D), as (B, S, H, D)."""
    return x.transpose(1, 2) if by_head else x.unflatten(-1, (heads, -1))


def override(attend: Callable[[Tensor, Tensor, Tensor], Tensor], target: Target, everywhere: bool) -> Callable:
    """ComfyUI's override for attention on (B, S, H, D); `everywhere`: also in calls that are no self-attention of the
    video's. Calls with a mask or a scale of their own are left to the model's own attention."""

    def function(func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: object = None, **call: object):
        by_head, out_by_head = call.get("skip_reshape", False), call.get("skip_output_reshape", False)
        own = q.shape == k.shape == v.shape and q.shape[-2] == target.tokens
        plain = mask is None and call.get("scale") is None and not call.get("enable_gqa")
        if not plain or not (own or everywhere):
            return func(q, k, v, heads, mask=mask, **call)
        target.calls.extend([None] * own)
        out = attend(*(heads_apart(x, heads, by_head) for x in (q, k, v)))
        return out.transpose(1, 2) if out_by_head else out.flatten(2)

    return function


def put(target: Target, function: Callable) -> None:
    """Make an override the MODEL's."""
    target.patcher.model_options["transformer_options"]["optimized_attention_override"] = function


def by(attend: Callable[[Tensor, Tensor, Tensor], Tensor], everywhere: bool = True) -> Attach:
    """A method that is one function of q, k, v (B, S, H, D)."""

    def attach(target: Target) -> None:
        target.counted = True
        put(target, override(attend, target, everywhere))

    return attach


def refuse(target: Target) -> None:
    """Under a method that hands on what it does not take: an error for the video's self-attention, instead of a row
    that is that of dense attention."""

    def function(func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, **call: object) -> Tensor:
        if q.shape == k.shape == v.shape and q.shape[-2] == target.tokens:
            raise MissingError("it left self-attention of the video to dense attention")
        return func(q, k, v, heads, **call)

    put(target, function)
