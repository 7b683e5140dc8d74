"""Attention in compiled models: an opaque operator, and what compiled code is guarded by.

A compiler bakes Python branches in, so compiled code calls `sparse_vdit::attention`, which asks the current run when it
is executed. Without a run it is plain dense attention: compiled code outlives the node that put it there.

ComfyUI drops the compiler's guards on transformer_options, so code that read them there would be used for other videos
and other blocks, unnoticed. What differs between videos is in an object of this module, whose guards stay: the token
grid is a constant of the code. The block's number is a tensor on the CPU, an input of the code, so that blocks share
theirs. Each thread has its own object, as ComfyUI computes on each GPU in a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ....kernels.grid import TokenGrid
from ..core import fallback
from ..core.fallback import Dense, dense_because
from ..session.block_tracker import COUNTED
from ..session.call import Call, merge_heads, split_heads
from ..session.run import current_run, timing_dense
from .own_attention import model_attention, own_attention, undecorated

CHAINED = "sparse_vdit_chained"
"""Key in transformer_options: the override that was there before ours."""

MAX_BLOCKS = 512
_NUMBERS = tuple(torch.tensor(number) for number in range(MAX_BLOCKS))
_COUNTED = torch.tensor(COUNTED)


def _mark(device: torch.device) -> Tensor:
    """A tensor to write to, within `torch.inference_mode` and without."""
    with torch.inference_mode(False):
        return torch.zeros((), device=device)


@dataclass
class _State:
    """What code is guarded by; see `state`."""

    sampling: bool = False
    grid: TokenGrid | str = fallback.UNSEEN_FORWARD.reason
    outside: str = fallback.NO_LAYER.reason
    number: Tensor | None = None
    counted: bool = False
    attended: bool = False
    mark: Tensor = field(default_factory=lambda: _mark(torch.device("cpu")))


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.state = _State()


_here = _OfThread()


def set_sampling(on: bool) -> None:
    """Whether a run is on. Code that a compiler makes of the override is guarded by it: never used without a run."""
    _here.state.sampling = on


def sampling() -> bool:
    """Whether a run is on, by the last `set_sampling`."""
    return _here.state.sampling


def begin_forward(grid: TokenGrid | str, outside: str, counted: bool) -> None:
    """The model's forward begins: its grid or why that is unknown, and why calls outside of blocks stay dense."""
    here = _here.state
    here.grid, here.outside = grid, outside
    here.number, here.counted, here.attended = _COUNTED if counted else None, counted, False


def forget_forward(device: torch.device | None = None) -> None:
    """No forward runs, or one on a device whose grid is not known yet."""
    begin_forward(fallback.UNSEEN_FORWARD.reason, fallback.NO_LAYER.reason, False)
    if device is not None and _here.state.mark.device != device:
        _here.state.mark = _mark(device)


def begin_block(number: int) -> None:
    """A block begins."""
    here = _here.state
    here.number, here.attended = _NUMBERS[number], False


def end_block() -> None:
    """The block has ended."""
    _here.state.number = None


def set_attended() -> None:
    """The block has made its self-attention call."""
    _here.state.attended = True


def state() -> tuple[TokenGrid | str, str, Tensor | None, bool]:
    """Grid of the forward or why it is unknown, why calls outside of blocks stay dense, number of the running block
    (0-d int64 on the CPU, COUNTED where calls are counted, None outside of blocks), whether it has attended already;
    of counted blocks nothing says where one begins."""
    here = _here.state
    return here.grid, here.outside, here.number, here.attended and not here.counted


# inductor then leaves it out of CUDA graphs, which would replay one decision for every step
_TAGS = {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}


@torch.library.custom_op("sparse_vdit::attention", mutates_args=(), **_TAGS)
def attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    layer: Tensor,
    grid: Sequence[int],
    by_head: bool,
    out_by_head: bool,
    words: str,
    numbers: Sequence[int],
    mask: Tensor | None = None,
) -> Tensor:
    """What compiled code calls: the same attention, decided when it is executed. Output contiguous.

    `layer` is the block's number or COUNTED; `words` and `numbers` are what the model had written into
    transformer_options (`pack`).
    """

    def dense() -> Tensor:
        kwargs = {"skip_reshape": by_head, "skip_output_reshape": out_by_head, "_inside_attn_wrapper": True}
        if mask is not None:
            kwargs["mask"] = mask
        function = undecorated(model_attention())
        if run is None:
            return function(q, k, v, heads, **kwargs)
        options = run.call_options(unpack(words, numbers))
        if options is not None:
            kwargs["transformer_options"] = options
        function, chained = run.own or (function, None)
        with timing_dense():
            return own_attention(chained, function, q, k, v, heads, **kwargs)

    run = current_run()
    if run is None:
        return dense().contiguous()
    split = (split_heads(x, heads, by_head) for x in (q, k, v))
    out = run.attend(Call(int(layer), TokenGrid(*grid), *split, mask, dense))
    return (dense() if out is None else merge_heads(out, out_by_head)).contiguous()


@attention_op.register_fake
def _(q, k, v, heads, layer, grid, by_head, out_by_head, words, numbers, mask=None):
    if by_head == out_by_head:
        return torch.empty_like(q, memory_format=torch.contiguous_format)
    if by_head:
        return q.new_empty(q.shape[0], q.shape[2], q.shape[1] * q.shape[3])
    return q.new_empty(q.shape[0], heads, q.shape[1], q.shape[2] // heads)


@torch.library.custom_op("sparse_vdit::count_dense", mutates_args=("mark",), **_TAGS)
def _count_dense(mark: Tensor, reason: str) -> None:
    """Counts a call that compiled code computes dense. The compiler keeps it because it may write to `mark`."""
    run = current_run()
    if run is not None:
        run.stats.count_dense(dense_because(reason))


def count_dense(why: Dense) -> None:
    """Count such a call whenever the code that is traced now runs. Blocks share their code, so that a list in
    transformer_options would be written once for all of them."""
    _count_dense(_here.state.mark, why.reason)


LISTS = {"grid_sizes": torch.Size, "img_slice": list}
"""What models write into transformer_options while they run, part of the call for attention of other nodes: keys of
lists of numbers, and what makes one of them as models do."""

NUMBERS = ("block_index", "total_blocks")
TEXTS = ("block_type",)


def pack(options: Mapping) -> tuple[str, list[int]]:
    """What a model has written so far, as a text and numbers, which operators take. Code that is compiled as a whole
    works on a separate dict, which the pack cannot read while it runs."""
    words = [f"{name}={options[name]}" for name in TEXTS if name in options]
    numbers = []
    for name in (*NUMBERS, *LISTS):
        if name in options:
            value = options[name] if name in LISTS else (options[name],)
            words.append(f"{name}:{len(value)}")
            numbers.extend(value)
    return " ".join(words), numbers


def unpack(words: str, numbers: Sequence[int]) -> dict:
    """The same as it was in transformer_options."""
    found, rest = {}, list(numbers)
    for word in words.split():
        name, is_text, value = word.partition("=")
        if is_text:
            found[name] = value
            continue
        name, _, count = word.partition(":")
        mine, rest = rest[: int(count)], rest[int(count) :]
        found[name] = LISTS[name](mine) if name in LISTS else mine[0]
    return found
