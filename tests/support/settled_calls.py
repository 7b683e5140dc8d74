"""What a settled attention call issues beside its kernels: operations of torch, launches, and waits for the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

FREE = ("empty", "new_empty", "empty_strided", "empty_like")  # memory, which nothing is done with
WAITS = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")


class OperationCounter(TorchDispatchMode):
    """Counts the operators that work on data: those that make views or allocate memory do not."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        """Run an operator and count it."""
        name = func.__name__.split(".")[0]
        if not func.is_view and name not in FREE:
            self.operations[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting(monkeypatch: object) -> Iterator[None]:
    """Fail where Python reads a tensor, which waits for its device, or makes one of its own numbers, which is a copy
    that the device waits for."""

    def refuse(name: str) -> Callable:
        def read(*args: object, **kwargs: object) -> None:
            raise AssertionError(f"a settled call uses {name}")

        return read

    with monkeypatch.context() as patch:
        for name in WAITS:
            patch.setattr(torch.Tensor, name, refuse(f"Tensor.{name}"))
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, refuse(f"torch.{name}"))
        yield
