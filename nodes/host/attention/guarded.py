"""What code made by a compiler is guarded by: the forward's layout and the block at work.

ComfyUI drops the compiler's guards on transformer_options, so code that read them there would be used for other videos
and other blocks, unnoticed. These are globals of a module, whose guards stay. The layout is a constant of the code. The
block's number is a tensor on the CPU, an input of the code, so that blocks share theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..families import Layout
from ..reports import reasons

COUNTED = -1
"""Said in the place of a number where calls are counted when they run."""

MOST_BLOCKS = 512
_NUMBERS = tuple(torch.tensor(number) for number in range(MOST_BLOCKS))
_COUNTED = torch.tensor(COUNTED)

_layout: Layout | str = reasons.UNSEEN_FORWARD
_outside: str = reasons.NO_LAYER
_number: Tensor | None = None


def begin_forward(layout: Layout | str, outside: str, counted: bool) -> None:
    """The model's forward begins: its layout or why that is unknown, and why calls outside of blocks stay dense."""
    global _layout, _outside, _number
    _layout, _outside, _number = layout, outside, _COUNTED if counted else None


def end_forward() -> None:
    """No forward runs, or one whose layout is not known yet."""
    begin_forward(reasons.UNSEEN_FORWARD, reasons.NO_LAYER, False)


def begin_block(number: int) -> None:
    """A block begins."""
    global _number
    _number = _NUMBERS[number]


def end_block() -> None:
    """No block is at work."""
    global _number
    _number = None


def layout() -> Layout | str:
    """Token layout of the forward, or why it is unknown."""
    return _layout


def outside() -> str:
    """Why calls outside of blocks stay dense."""
    return _outside


def number() -> Tensor | None:
    """Number of the block at work, 0-d int64 on the CPU, COUNTED where calls are counted; None outside of blocks."""
    return _number
