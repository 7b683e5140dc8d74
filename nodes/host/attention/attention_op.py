"""The one call that attention goes through, and its opaque form for compiled models.

A compiler bakes Python branches in, so a compiled model calls `sparse_vdit::attention`, which asks the current run when
it is executed. Without a run it is plain dense attention: compiled code outlives the node that put it there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..families import Layout
from ..runs.current import current_run
from ..runs.engine import Call
from .own_attention import model_attention, own_attention, undecorated
from .written import unpacked


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
    again: Callable[[], object] | None = None,
) -> Tensor:
    """Self-attention as the current run wants it.

    Args:
        dense: computes it the model's own way.
        again: does so for timing, where `dense` uses up what it is given.
    """
    run = current_run()
    if run is None:
        return dense()
    split = (split_heads(x, heads, by_head) for x in (q, k, v))
    out = run.attend(Call(layer, layout, *split, mask, again or dense))
    return dense() if out is None else merge_heads(out, out_by_head)


# inductor then leaves it out of CUDA graphs, which would replay one decision for every step
_TAGS = {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}


@torch.library.custom_op("sparse_vdit::attention", mutates_args=(), **_TAGS)
def attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    layer: Tensor,
    layout: Sequence[int],
    by_head: bool,
    out_by_head: bool,
    words: str,
    numbers: Sequence[int],
    mask: Tensor | None = None,
) -> Tensor:
    """What compiled code calls: the same attention, decided when it is executed. Output contiguous.

    `layer` is the block's number or COUNTED (`guarded.py`); `words` and `numbers` are what the model had written into
    transformer_options (`written.py`).
    """

    def dense() -> Tensor:
        kwargs = {"skip_reshape": by_head, "skip_output_reshape": out_by_head, "_inside_attn_wrapper": True}
        if mask is not None:
            kwargs["mask"] = mask
        run = current_run()
        if run is None:
            return undecorated(model_attention())(q, k, v, heads, **kwargs)
        options = run.call_options(unpacked(words, numbers))
        if options is not None:
            kwargs["transformer_options"] = options
        with run.timing_dense():
            return own_attention(run.chained, run.function, q, k, v, heads, **kwargs)

    out = run_attention(q, k, v, heads, int(layer), tuple(layout), by_head, out_by_head, dense, mask)
    return out.contiguous()


@attention_op.register_fake
def _(q, k, v, heads, layer, layout, by_head, out_by_head, words, numbers, mask=None):
    if by_head == out_by_head:
        return torch.empty_like(q, memory_format=torch.contiguous_format)
    if by_head:
        return q.new_empty(q.shape[0], q.shape[2], q.shape[1] * q.shape[3])
    return q.new_empty(q.shape[0], heads, q.shape[1], q.shape[2] // heads)
