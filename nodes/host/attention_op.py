"""The one call that attention goes through, and its opaque form for compiled models.

A compiler bakes Python branches in, so a compiled model calls `sparse_vdit::attention`, which asks the current run when
it is executed. Without a run it is plain dense attention: compiled code outlives the node that put it there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from .current import current_run
from .families import Layout


def split_heads(x: Tensor, heads: int, by_head: bool) -> Tensor:
    """(B, S, H*D), or (B, H, S, D) when `by_head`, as a view (B, S, H, D)."""
    return x.transpose(1, 2) if by_head else x.unflatten(-1, (heads, -1))


def merge_heads(x: Tensor, by_head: bool) -> Tensor:
    """(B, S, H, D) as (B, S, H*D), or (B, H, S, D) when `by_head`."""
    return x.transpose(1, 2) if by_head else x.flatten(2)


def run_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    layer: int | None,
    layout: Layout,
    by_head: bool,
    out_by_head: bool,
    dense: Callable[[], Tensor],
    mask: Tensor | None = None,
) -> Tensor:
    """Self-attention as the current run wants it; `dense` computes it the model's own way."""
    run = current_run()
    if run is None:
        return dense()

    def again() -> Tensor:  # for timing: `dense` may use up what it is given
        return _dense(q, k, v, heads, layer, by_head, out_by_head, mask)

    out = run.attend(layer, layout, *(split_heads(x, heads, by_head) for x in (q, k, v)), mask, again=again)
    return dense() if out is None else merge_heads(out, out_by_head)


def _model_attention() -> Callable:
    """The attention that ComfyUI itself would use, undecorated."""
    module = sys.modules["comfy.ldm.modules.attention"]
    function = module.optimized_attention
    return getattr(function, "__wrapped__", function)


def _dense(
    q: Tensor, k: Tensor, v: Tensor, heads: int, layer: int, by_head: bool, out_by_head: bool, mask: Tensor | None
) -> Tensor:
    run = current_run()
    kwargs = {"skip_reshape": by_head, "skip_output_reshape": out_by_head, "_inside_attn_wrapper": True}
    if mask is not None:
        kwargs["mask"] = mask
    if run is None:
        return _model_attention()(q, k, v, heads, **kwargs)
    if run.options is not None:
        kwargs["transformer_options"] = {**run.options, "block_index": layer}
    with run.timing_dense():
        if run.chained is not None:
            return run.chained(run.function, q, k, v, heads, **kwargs)
        return run.function(q, k, v, heads, **kwargs)


@torch.library.custom_op("sparse_vdit::attention", mutates_args=())
def attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    layer: int,
    frames: int,
    height: int,
    width: int,
    prefix: int,
    suffix: int,
    by_head: bool,
    out_by_head: bool,
    mask: Tensor | None = None,
) -> Tensor:
    """What compiled code calls: the same attention, decided when it is executed. Output contiguous."""
    layout = (frames, height, width, prefix, suffix)
    run = current_run()
    at_work = run.at_work.take_layer() if run is not None and run.at_work.numbered else layer
    out = run_attention(
        q,
        k,
        v,
        heads,
        at_work,
        layout,
        by_head,
        out_by_head,
        lambda: _dense(q, k, v, heads, layer if at_work is None else at_work, by_head, out_by_head, mask),
        mask,
    )
    return out.contiguous()


@attention_op.register_fake
def _(q, k, v, heads, layer, frames, height, width, prefix, suffix, by_head, out_by_head, mask=None):
    if by_head == out_by_head:
        return torch.empty_like(q, memory_format=torch.contiguous_format)
    if by_head:
        return q.new_empty(q.shape[0], q.shape[2], q.shape[1] * q.shape[3])
    return q.new_empty(q.shape[0], heads, q.shape[1], q.shape[2] // heads)
