"""What ComfyUI calls instead of the model's attention. In compiled code it decides on static facts alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ....kernels.grid import TokenGrid
from ..core import fallback
from ..core.fallback import Dense, dense_because
from ..session.call import Call, merge_heads, split_heads
from ..session.run import Run, current_run, timing_dense
from ..session.text_mask import is_key_mask
from . import compile_op
from .compile_op import CHAINED
from .own_attention import contained_attention, own_attention, refilled

_NAMES = ("q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape")


def attention_override(func: Callable, *args: object, **kwargs: object) -> Tensor:
    """Override with ComfyUI's signature: `func` is the undecorated attention, the rest its arguments."""
    options = kwargs.get("transformer_options") or {}
    chained = options.get(CHAINED)

    def dense() -> Tensor:
        with timing_dense():
            return own_attention(chained, func, *args, **kwargs)

    out = _attend({**dict(zip(_NAMES, args, strict=False)), **kwargs}, options, dense)
    return dense() if out is None else out


def contained_override(*args: object, **kwargs: object) -> Tensor:
    """The same for q, k and v in ComfyUI's containers, which whoever computes attention empties.

    Nothing here holds a tensor of theirs when dense attention begins, so that it can free them as early as it likes.
    """
    options = kwargs.get("transformer_options") or {}
    chained = options.get(CHAINED)

    def again() -> Tensor:
        return contained_attention(chained, *refilled(args), **kwargs)

    out = _attend({**dict(zip(_NAMES, _peeked(args), strict=False)), **kwargs}, options, again)
    if out is None:
        with timing_dense():
            return contained_attention(chained, *args, **kwargs)
    for container in args[:3]:
        container.take()
    return out


attention_override.container_function = contained_override


def _peeked(args: tuple) -> tuple:
    return (*(container.peek() for container in args[:3]), *args[3:])


def _attend(given: Mapping, options: dict, again: Callable[[], Tensor]) -> Tensor | None:
    """What the current run makes of a call with these arguments; None where it has to be dense."""
    if torch.compiler.is_compiling():
        return _compiled(given, options)
    run = current_run()
    return None if run is None else _by_run(run, given, again)


def _by_run(run: Run, given: Mapping, again: Callable[[], Tensor]) -> Tensor | None:
    """An eager call: the run is asked now."""
    q, k, v, heads = (given[name] for name in _NAMES[:4])
    tracker = run.tracker
    if tracker.numbered:
        grid, layer = tracker.grid, tracker.layer
        attended = tracker.attended and tracker.count is None
        why = refusal(given, grid, tracker.in_block, tracker.outside, attended)
    else:  # within a forward that is compiled for the most part
        grid, outside, number, attended = compile_op.state()
        grid = dense_because(grid) if isinstance(grid, str) else grid
        layer = None if number is None else int(number)
        why = refusal(given, grid, number is not None, dense_because(outside), attended)
    if q.shape == k.shape:
        tracker.attended = True
        compile_op.set_attended()
    if why is not None:
        run.stats.count_dense(why, layer)
        return None
    by_head = bool(given.get("skip_reshape"))
    split = (split_heads(x, heads, by_head) for x in (q, k, v))
    out = run.attend(Call(layer, grid, *split, given.get("mask"), again))
    return None if out is None else merge_heads(out, bool(given.get("skip_output_reshape")))


def _compiled(given: Mapping, options: dict) -> Tensor | None:
    """While torch.compile traces: puts `attention_op` there, which asks the run when the code runs."""
    if not compile_op.sampling():  # read in all code that this function gets into, which it then guards
        return None
    grid, outside, number, attended = compile_op.state()
    known = dense_because(grid) if isinstance(grid, str) else grid
    why = refusal(given, known, number is not None, dense_because(outside), attended)
    q, k, v, heads = (given[name] for name in _NAMES[:4])
    if q.shape == k.shape:
        compile_op.set_attended()
    if why is not None:
        if why.self_attention:  # no report has the others
            compile_op.count_dense(why)
        return None
    by_head, out_by_head = bool(given.get("skip_reshape")), bool(given.get("skip_output_reshape"))
    written = compile_op.pack(options)
    mask = given.get("mask")
    return compile_op.attention_op(q, k, v, heads, number, grid, by_head, out_by_head, *written, mask)


def refusal(
    given: Mapping, grid: TokenGrid | Dense, in_block: bool, outside: Dense, attended: bool = False
) -> Dense | None:
    """Why no plan can be about a call, None where one can. Reads shapes and settings only.

    Args:
        given: arguments of the call by name.
        grid: of the forward, or why it is unknown.
        in_block: whether a block of the model calls.
        outside: why calls outside of blocks stay dense.
        attended: whether the block has made its self-attention call already.
    """
    q, k, v = given["q"], given["k"], given["v"]
    if not q.shape == k.shape == v.shape:
        # queries by groups, each with a separate mask, are self-attention all the same
        parted = given.get("mask") is not None and not isinstance(grid, Dense) and k.shape[-2] == grid.tokens
        return fallback.MASKED if parted else fallback.CROSS_ATTENTION
    if isinstance(grid, Dense):
        return grid
    if not in_block:
        return outside
    if attended:
        return fallback.CROSS_ATTENTION
    if given.get("scale") is not None or given.get("enable_gqa"):
        return fallback.OWN_SCALE
    by_head = bool(given.get("skip_reshape"))
    if q.ndim != (4 if by_head else 3) or (by_head and q.shape[1] != given["heads"]):
        return fallback.OTHER_HEADS
    tokens = q.shape[-2]
    if tokens != grid.tokens:
        return fallback.OTHER_TOKENS
    mask = given.get("mask")
    return None if mask is None or is_key_mask(mask, q.shape[0], tokens) else fallback.MASKED
