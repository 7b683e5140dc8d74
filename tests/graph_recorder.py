"""A stand-in for what newer ComfyUIs record forwards with (comfy-aimdo's memory compiler, "malloc graph"): the ComfyUI
at hand has none, and it needs an NVIDIA GPU.

The real one replays a forward's allocations, so that within it nothing may be allocated that outlives it, and no
attribute may be set on a module, unless `pause_malloc_graph()` is around it. The stand-in watches for the same two
things, on any device; it knows nothing of what else the real one may refuse.

Imports torch alone, as the test pack uses it too.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

FRESH = ("lift_fresh", "lift_fresh_copy")  # of tensors that Python made out of numbers, past the dispatcher


class GraphError(RuntimeError):
    """A forward broke the rules; names what was allocated or set, and where."""


class GraphRecorder(TorchDispatchMode):
    """Records one forward: `result = recorder.record(forward)`.

    Args:
        ours: whether a line of the stack, `file:line function`, makes a violation one to report. All by default.
        cycles: whether tensors that only reference cycles keep are let go; Triton's interpreter leaves such.
    """

    def __init__(self, ours: Callable[[str], bool] = lambda line: True, cycles: bool = False):
        super().__init__()
        self.cycles = cycles
        self.ours, self.paused, self.pauses = ours, 0, 0
        self.known: set[int] = set()
        self.allocated: dict[int, tuple[StorageWeakRef, str]] = {}
        self.attributes: list[str] = []

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What ComfyUI calls `pause_malloc_graph`."""
        self.paused += 1
        self.pauses += 1
        try:
            yield
        finally:
            self.paused -= 1

    def record(self, forward: Callable[[], object]) -> object:
        """The forward's result.

        Raises:
            GraphError: something allocated in it outlives it without being its result, or a module was changed.
        """
        plain = nn.Module.__setattr__

        def watched(module: nn.Module, name: str, value: object) -> None:
            line = self._place()
            if not self.paused and line:
                self.attributes.append(f"{type(module).__name__}.{name} set at {line}")
            plain(module, name, value)

        nn.Module.__setattr__ = watched
        try:
            with self:
                result = forward()
        finally:
            nn.Module.__setattr__ = plain
        if self.cycles:
            gc.collect()
        allowed = {storage_number(tensor) for tensor in tree_flatten(result)[0] if isinstance(tensor, torch.Tensor)}
        kept = [
            text
            for number, (reference, text) in self.allocated.items()
            if text and number not in allowed and not reference.expired()
        ]
        if kept or self.attributes:
            raise GraphError("malloc graph broken: " + "; ".join([*self.attributes, *kept]))
        return result

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        """Runs an operator and notes what it allocated."""
        out = func(*args, **(kwargs or {}))
        given = {storage_number(x) for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)}
        fresh = func.__name__.split(".")[0] in FRESH
        if not fresh:
            self.known |= {number for number in given if number not in self.allocated}
        for tensor in tree_flatten(out)[0]:
            if not isinstance(tensor, torch.Tensor) or self.paused:
                continue
            number = storage_number(tensor)
            old = self.allocated.get(number)
            if (number in given and not fresh) or (old is not None and not old[0].expired()):
                continue
            text = f"{func} {tuple(tensor.shape)} at {self._place()}" if self._place() else ""
            self.allocated[number] = StorageWeakRef(tensor.untyped_storage()), text
        return out

    def _place(self) -> str:
        """The innermost lines of the stack, where one of them is ours; empty elsewhere."""
        frames = traceback.extract_stack(limit=40)[:-2]
        lines = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return " < ".join(lines[:-4:-1]) if any(self.ours(line) for line in lines) else ""


def storage_number(tensor: torch.Tensor) -> int:
    """Tells storages apart while they exist."""
    return tensor.untyped_storage()._cdata
