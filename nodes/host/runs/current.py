"""The run that is sampling now.

Runs lie on a stack of this module, never on a model or in its options: clones share those, compiled code outlives them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .run import Run

_stack: list[Run] = []


def current_run() -> Run | None:
    """The run that is sampling now, None outside of sampling."""
    return _stack[-1] if _stack else None


def push_run(run: Run) -> None:
    """Make a run the current one."""
    _stack.append(run)


def pop_run(run: Run) -> None:
    """Take a run off; nothing happens when it is off already."""
    if run in _stack:
        _stack.remove(run)


def timing_dense() -> AbstractContextManager:
    """`Run.timing_dense` of the current run; nothing without one, or where code is being compiled."""
    run = None if torch.compiler.is_compiling() else current_run()
    return nullcontext() if run is None else run.timing_dense()
