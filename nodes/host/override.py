"""What ComfyUI calls instead of the model's attention. It decides on static facts alone, as it may be compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from . import reasons
from .attention_op import attention_op, run_attention
from .run import current_run, timing_dense

LAYOUT = "sparse_vdit_layout"
"""Key in transformer_options: token layout of this forward (tuple of five), or why it is unknown (text)."""
CHAINED = "sparse_vdit_chained"
"""Key in transformer_options: the override that was there before ours."""

SEEN = "sparse_vdit_seen"
"""Key in transformer_options: the last block whose self-attention was called. Tells apart cross-attention to a text
that happens to be as long as the video."""

_NAMES = ("q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape")


def attention_override(func: Callable, *args: object, **kwargs: object) -> Tensor:
    """Override with ComfyUI's signature: `func` is the undecorated attention, the rest its arguments."""
    options = kwargs.get("transformer_options") or {}
    call = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
    reason = refusal(call, options)
    chained = options.get(CHAINED)

    def dense() -> Tensor:
        with timing_dense():
            return func(*args, **kwargs) if chained is None else chained(func, *args, **kwargs)

    if reason is not None:
        if not torch.compiler.is_compiling():
            run = current_run()
            if run is not None:
                run.dense[reason] += 1
        return dense()
    q, k, v, heads = (call[name] for name in _NAMES[:4])
    by_head, out_by_head = bool(call.get("skip_reshape")), bool(call.get("skip_output_reshape"))
    layer, layout = options["block_index"], options[LAYOUT]
    options[SEEN] = layer
    if torch.compiler.is_compiling():
        return attention_op(q, k, v, heads, layer, *layout, by_head, out_by_head)
    return run_attention(q, k, v, heads, layer, layout, by_head, out_by_head, dense)


def refusal(call: Mapping, options: Mapping) -> str | None:
    """Why a call is none that a plan is about, None when it is one. Reads shapes and settings only."""
    q, k, v = call["q"], call["k"], call["v"]
    if not q.shape == k.shape == v.shape:
        return reasons.CROSS_ATTENTION
    layout = options.get(LAYOUT, reasons.UNSEEN_FORWARD)
    if isinstance(layout, str):
        return layout
    if call.get("mask") is not None:
        return reasons.MASKED
    if call.get("scale") is not None or call.get("enable_gqa"):
        return reasons.OWN_SCALE
    if options.get("block_index") is None:
        return reasons.NO_LAYER
    if options.get(SEEN) == options["block_index"]:
        return reasons.CROSS_ATTENTION
    by_head = bool(call.get("skip_reshape"))
    if q.ndim != (4 if by_head else 3) or (by_head and q.shape[1] != call["heads"]):
        return reasons.OTHER_HEADS
    frames, height, width, prefix, suffix = layout
    if q.shape[2 if by_head else 1] != frames * height * width + prefix + suffix:
        return reasons.OTHER_TOKENS
    return None
