"""A stand-in for ComfyUI's memory compiler (comfy-aimdo, "malloc graph"), which needs an NVIDIA GPU.

It watches the allocations of PyTorch's operators on any device, and applies the rules of comfy-aimdo 0.5.0 to 0.6.0
that `nodes/host/session/memory.py` lists: what is freed in a pause, while recording, or after its block, and whether
blocks allocate and free the same sizes in the same order. The end of a pause resumes the recording, whatever is around
it. What an operator allocates for itself is not seen, nor are streams and threads told apart.

Imports torch alone, as the test pack uses it too.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

FRESH = ("lift_fresh", "lift_fresh_copy")  # of tensors that Python made out of numbers, past the dispatcher
MAX_FRAMES = 40  # of the stack, innermost first
PASSING = (__file__, torch._compile.__file__, torch._dynamo.eval_frame.__file__)  # frames of every operator
FORWARD = "forward"  # the scope around all blocks


class GraphError(RuntimeError):
    """A forward broke the rules; names what was allocated, freed or set, and where."""


@dataclass
class Made:
    """An allocation.

    Attributes:
        scope: block or forward that it was recorded in, None where it was made in a pause.
        number: of the allocation in its scope.
        place: innermost lines of the stack where one of them is ours, else empty.
    """

    storage: StorageWeakRef
    scope: Scope | None
    number: int
    what: str
    place: str


class Scope:
    """A block or forward that is recorded.

    Attributes:
        events: (number of the allocation, its bytes, or None where it is freed).
        over: whether it has ended.
    """

    def __init__(self, name: str):
        self.name = name
        self.events: list[tuple[int, int | None]] = []
        self.count, self.over = 0, False

    def sequence(self, outlived: set[int]) -> tuple:
        """What later blocks have to repeat: without what outlives the block."""
        return tuple(event for event in self.events if event[0] not in outlived)


class GraphRecorder(TorchDispatchMode):
    """Records forwards: `result = recorder.record(forward, model)`.

    Args:
        ours: whether a function on the stack, `file:line name`, makes a violation one to report. All by default.
        cycles: whether tensors that only reference cycles keep are let go; Triton's interpreter leaves such.

    Attributes:
        pauses: how often the recording was paused.
        sequences: what blocks allocated and freed, each sequence once, by shape of the forward and name of the block.
    """

    def __init__(self, ours: Callable[[str], bool] = lambda line: True, cycles: bool = False):
        super().__init__()
        self.ours, self.cycles = ours, cycles
        self.paused, self.pauses = False, 0
        self.sequences: dict[tuple, list[tuple]] = {}
        self.violations: list[str] = []
        self.allocations = 0
        self._live: dict[int, Made] = {}
        self._scopes: list[Scope] = []
        self._of: object = None
        self._judged: dict[CodeType, bool] = {}

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What ComfyUI calls `pause_malloc_graph`."""
        self._switch(True)
        self.pauses += 1
        try:
            yield
        finally:
            self._switch(False)

    def record(self, forward: Callable[[], object], model: nn.Module | None = None, of: object = None) -> object:
        """The forward's result.

        Args:
            model: whose blocks are recorded one by one, as ComfyUI does before each.
            of: shape of the forward; blocks of other shapes need not be alike.

        Raises:
            GraphError: a rule was broken.
        """
        self._of, self.violations, self.paused = of, [], False
        self._live = {number: made for number, made in self._live.items() if not made.storage.expired()}
        with self._blocks(model), self._attributes(), self:
            self._begin(FORWARD)
            result = forward()
            self._end({storage_number(x) for x in tree_flatten(result)[0] if isinstance(x, torch.Tensor)})
        if self.violations:
            raise GraphError("malloc graph broken: " + "; ".join(self.violations))
        return result

    def most_sequences(self) -> int:
        """Of blocks of one shape and name: each beyond the first is recorded anew."""
        return max((len(known) for (_, name), known in self.sequences.items() if name != FORWARD), default=0)

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        """Runs an operator and notes what it allocated."""
        if not self.paused:  # else at the end of the pause
            self._note_freed()
        out = func(*args, **(kwargs or {}))
        given = {storage_number(x) for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)}
        fresh = func.__name__.split(".")[0] in FRESH
        for tensor in tree_flatten(out)[0]:
            if not isinstance(tensor, torch.Tensor):
                continue
            number = storage_number(tensor)
            if number in self._live or (number in given and not fresh):
                continue
            self._note_made(number, tensor, f"{func} {tuple(tensor.shape)}")
        return out

    def _note_made(self, number: int, tensor: torch.Tensor, what: str) -> None:
        scope = None if self.paused else self._scopes[-1]
        made = Made(StorageWeakRef(tensor.untyped_storage()), scope, 0, what, self._place())
        if scope is not None:
            made.number, scope.count = scope.count, scope.count + 1
            scope.events.append((made.number, tensor.untyped_storage().nbytes()))
        self._live[number] = made
        self.allocations += 1

    def _note_freed(self) -> None:
        """What was freed since this was called last."""
        for number, made in list(self._live.items()):
            if not made.storage.expired():
                continue
            del self._live[number]
            what = f"{made.what} at {made.place}"
            if made.scope is None:
                if not self.paused and made.place:
                    self.violations.append(f"{what} was allocated in a pause and freed while recording")
            elif made.scope.over:
                continue  # a violation was noted when its scope ended
            elif self.paused:
                self.violations.append(f"{what} was allocated while recording and freed in a pause")
            elif made.scope is self._scopes[-1]:
                made.scope.events.append((made.number, None))
            elif made.place:
                self.violations.append(f"{what} was freed in a block that did not allocate it")

    def _switch(self, paused: bool) -> None:
        """Record no more, or again."""
        if self.cycles:
            gc.collect()
        self._note_freed()
        self.paused = paused

    def _begin(self, name: str) -> None:
        self._note_freed()
        self._scopes.append(Scope(name))

    def _end(self, results: set[int]) -> None:
        """The innermost block ends; `results` are storages that may outlive it."""
        self._note_freed()
        scope, outlived = self._scopes.pop(), set()
        scope.over = True
        for number, made in self._live.items():
            if made.scope is scope:
                outlived.add(made.number)
                if made.place and number not in results:
                    self.violations.append(f"{made.what} at {made.place} outlives its {scope.name}")
        known = self.sequences.setdefault((self._of, scope.name), [])
        sequence = scope.sequence(outlived)
        if sequence not in known:
            known.append(sequence)

    @contextmanager
    def _blocks(self, model: nn.Module | None) -> Iterator[None]:
        """Record each block by itself."""
        handles = []
        for name, blocks in () if model is None else model.named_children():
            if isinstance(blocks, nn.ModuleList) and "blocks" in name:
                for block in blocks:
                    handles.append(block.register_forward_pre_hook(lambda *_, name=name: self._begin(name)))
                    handles.append(block.register_forward_hook(lambda *_: self._end(set())))
        try:
            yield
        finally:
            self._scopes.clear()
            for handle in handles:
                handle.remove()

    @contextmanager
    def _attributes(self) -> Iterator[None]:
        """Watch for attributes that are set on modules, as these move with the model."""
        plain = nn.Module.__setattr__

        def watched(module: nn.Module, name: str, value: object) -> None:
            line = self._place()
            if not self.paused and line:
                self.violations.append(f"{type(module).__name__}.{name} set at {line}")
            plain(module, name, value)

        nn.Module.__setattr__ = watched
        try:
            yield
        finally:
            nn.Module.__setattr__ = plain

    def _place(self) -> str:
        """The innermost lines of the stack, where one of them is ours; empty elsewhere."""
        lines, frame, ours = [], sys._getframe(2), False
        for _ in range(MAX_FRAMES):
            if frame is None:
                break
            code = frame.f_code
            if code not in self._judged:
                self._judged[code] = self.ours(f"{code.co_filename}:{code.co_firstlineno} {code.co_name}")
            ours = ours or self._judged[code]
            if len(lines) < 3 and code.co_filename not in PASSING:
                lines.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
            frame = frame.f_back
        return " < ".join(lines) if ours else ""


def storage_number(tensor: torch.Tensor) -> int:
    """Tells storages apart while they exist."""
    return tensor.untyped_storage()._cdata
