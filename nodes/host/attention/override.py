"""What ComfyUI calls instead of the model's attention. It decides on static facts alone, as it may be compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..families import Family, Layout, read_layout
from ..families.family import Inputs
from ..reports import reasons
from ..runs.current import current_run, timing_dense
from . import guarded
from .attention_op import attention_op, run_attention
from .blocks import COUNT, LAYER, SEEN, number_blocks, take_layer
from .own_attention import contained_attention, own_attention, refilled
from .text_mask import is_key_mask
from .written import packed

LAYOUT = "sparse_vdit_layout"
"""Key in transformer_options: token layout of this forward (tuple of five), or why it is unknown (text)."""
CHAINED = "sparse_vdit_chained"
"""Key in transformer_options: the override that was there before ours."""

OUTSIDE = "sparse_vdit_outside"
"""Key in transformer_options: why calls outside of the model's blocks stay dense."""

REFUSED = "sparse_vdit_refused"
"""Key in transformer_options: list of reasons of the calls that compiled code computed dense without asking the run."""

_NAMES = ("q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape")

sampling = False
"""Whether a run is on. What a compiler makes of this file is guarded by it, and so never used without a run."""


def describe_forward(options: dict, family: Family, model: nn.Module, inputs: Inputs) -> None:
    """The model's forward begins, with these inputs: write down for attention all that follows from them."""
    layout, outside = read_layout(model, family, inputs), family.outside(model)
    options[LAYOUT], options[OUTSIDE] = layout, outside
    guarded.begin_forward(layout, outside, number_blocks(options, family, model))


def attention_override(func: Callable, *args: object, **kwargs: object) -> Tensor:
    """Override with ComfyUI's signature: `func` is the undecorated attention, the rest its arguments."""
    options = kwargs.get("transformer_options") or {}
    chained = options.get(CHAINED)

    def dense() -> Tensor:
        with timing_dense():
            return own_attention(chained, func, *args, **kwargs)

    return _attention({**dict(zip(_NAMES, args, strict=False)), **kwargs}, options, dense)


def contained_override(*args: object, **kwargs: object) -> Tensor:
    """The same for q, k and v in ComfyUI's containers, which whoever computes attention empties.

    Nothing here holds a tensor of theirs when dense attention begins, so that it can free them as early as it likes.
    """
    options = kwargs.get("transformer_options") or {}
    chained = options.get(CHAINED)

    def again() -> Tensor:
        return contained_attention(chained, *refilled(args), **kwargs)

    out = _attention({**dict(zip(_NAMES, _peeked(args), strict=False)), **kwargs}, options, lambda: None, again)
    if out is None:
        with timing_dense():
            return contained_attention(chained, *args, **kwargs)
    for container in args[:3]:
        container.take()
    return out


attention_override.container_function = contained_override


def _peeked(args: tuple) -> tuple:
    return (*(container.peek() for container in args[:3]), *args[3:])


def _attention(
    call: Mapping,
    options: dict,
    dense: Callable[[], Tensor | None],
    again: Callable[[], Tensor] | None = None,
) -> Tensor | None:
    """What the current run makes of a call with plain tensors; what `dense` gives where it has to be dense."""
    compiling = torch.compiler.is_compiling()
    if compiling and not sampling:  # read in all code that this function gets into, which it then guards
        return dense()
    reason = refusal(call, options, compiling)
    q, k, v, heads = (call[name] for name in _NAMES[:4])
    if q.shape == k.shape:
        options[SEEN] = True
    if reason is not None:
        _count_refused(reason, options, compiling)
        return dense()
    by_head, out_by_head = bool(call.get("skip_reshape")), bool(call.get("skip_output_reshape"))
    mask = call.get("mask")
    if compiling:
        written = packed(options)
        return attention_op(q, k, v, heads, guarded.number(), guarded.layout(), by_head, out_by_head, *written, mask)
    layer = take_layer(options)  # of calls that are the plan's alone, so that no other is counted
    return run_attention(q, k, v, heads, layer, options[LAYOUT], by_head, out_by_head, dense, mask, again)


def _count_refused(reason: str, options: dict, compiling: bool) -> None:
    """Tell the run of a call that it is not asked about; compiled code leaves a note that is read after the forward."""
    if compiling:
        if reason not in reasons.NOT_SELF_ATTENTION:  # of which there are many, and a longer list is other code
            options.get(REFUSED, []).append(reason)
        return
    run = current_run()
    if run is not None:
        run.ledger.count_dense(reason, options.get(LAYER))


def refusal(call: Mapping, options: Mapping, compiling: bool = False) -> str | None:
    """Why a call is none that a plan is about, None when it is one. Reads shapes and settings only; where code is
    compiled, what differs between videos and blocks is read where the compiler guards it."""
    q, k, v = call["q"], call["k"], call["v"]
    layout = guarded.layout() if compiling else options.get(LAYOUT, reasons.UNSEEN_FORWARD)
    in_block = guarded.number() is not None if compiling else LAYER in options or COUNT in options
    if not q.shape == k.shape == v.shape:
        parted = call.get("mask") is not None and isinstance(layout, tuple) and k.shape[-2] == _all_tokens(layout)
        return reasons.MASKED if parted else reasons.CROSS_ATTENTION  # queries by groups, each with a mask of its own
    if isinstance(layout, str):
        return layout
    if not in_block:
        return guarded.outside() if compiling else options.get(OUTSIDE, reasons.NO_LAYER)
    if options.get(SEEN) and COUNT not in options:
        return reasons.CROSS_ATTENTION
    if call.get("scale") is not None or call.get("enable_gqa"):
        return reasons.OWN_SCALE
    by_head = bool(call.get("skip_reshape"))
    if q.ndim != (4 if by_head else 3) or (by_head and q.shape[1] != call["heads"]):
        return reasons.OTHER_HEADS
    tokens = q.shape[-2]
    if tokens != _all_tokens(layout):
        return reasons.OTHER_TOKENS
    mask = call.get("mask")
    return None if mask is None or is_key_mask(mask, q.shape[0], tokens) else reasons.MASKED


def _all_tokens(layout: Layout) -> int:
    """Length of a layout's sequence."""
    frames, height, width, prefix, suffix = layout
    return frames * height * width + prefix + suffix
