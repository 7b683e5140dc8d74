"""Which MODELs of patch nodes are being sampled. A guider may hold several. Each has a separate run.

ComfyUI samples all of them with the options and wrappers of the guider's first one. So a forward finds its run by the
model that computes it, not by the options that came along.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..session.run import Run

_open: list[Sampled] = []


@dataclass(eq=False)
class Sampled:
    """A MODEL while it is sampled.

    Attributes:
        patcher: the MODEL.
        select, finish: of its patch node, see `install.py`.
        model_options: that it is sampled with, once they are known.
        first: whether it is the guider's first one.
        run: None before it begins, and where all of it stays dense.
        others: runs of its copies on other GPUs, by their `BaseModel`.
        begun: whether a forward of it was met.
        added: dictionaries of wrappers that the pack has added its own to.
        handled: the exception that a caller was handling already when sampling began, None for none.
    """

    patcher: object
    select: Callable
    finish: Callable
    model_options: dict = field(default_factory=dict)
    first: bool = False
    run: Run | None = None
    others: dict[object, Run] = field(default_factory=dict)
    begun: bool = False
    added: list[dict] = field(default_factory=list)
    handled: BaseException | None = field(default_factory=lambda: sys.exc_info()[1])

    def __post_init__(self) -> None:
        self.begun = self.first


@contextmanager
def opened(sampled: Sampled) -> Iterator[Sampled]:
    """A MODEL is sampled meanwhile."""
    _open.append(sampled)
    try:
        yield sampled
    finally:
        _open.remove(sampled)
        if not any(found.first for found in _open):
            _open.clear()  # of guiders that never cleaned up


def open_other(patcher: object, select: Callable, finish: Callable) -> None:
    """A MODEL may be sampled beside a guider's first one; nothing where it is the first one."""
    close_other(patcher)  # of a guider that never cleaned it up
    if not any(found.finish is finish for found in _open):
        _open.append(Sampled(patcher, select, finish))


def other(patcher: object) -> Sampled | None:
    """The MODEL if it is sampled beside a guider's first one."""
    return next((found for found in _open if found.patcher is patcher and not found.first), None)


def close_other(patcher: object) -> Sampled | None:
    """The same, which is over now."""
    found = other(patcher)
    if found is not None:
        _open.remove(found)
    return found


def of_model(model: object) -> Sampled | None:
    """The MODEL with these weights (a `BaseModel` of ComfyUI) or a copy of them on another GPU, the first one if there
    are two; None for none."""
    found = [sampled for sampled in _open if sampled.patcher.model is model or model in sampled.others]
    return max(reversed(found), key=lambda sampled: sampled.first, default=None)
