"""The CUDA driver's library as `cuda_driver.Driver` calls it, without a card: keeps every call, fails on
request, and hands launches to a machine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .parsing import Kernel, parse
from .program import Program

CONTEXT = 4711
FREE_SHARED, MAX_DYNAMIC_SHARED = 48 * 1024, 8  # bytes; CUfunction_attribute
MAX_SHARED = {  # bytes a block may have, by capability
    (8, 0): 166912, (8, 6): 101376, (8, 9): 101376, (9, 0): 232448, (10, 0): 232448, (12, 0): 101376,
}  # fmt: skip
MIN_SHARED = min(MAX_SHARED.values())  # of cards that are not listed
MAX_BLOCKS = 2**31 - 1, 2**16 - 1  # along x and y
INVALID_VALUE, INVALID_CONTEXT, NO_BINARY, INVALID_PTX, NOT_FOUND = 1, 201, 209, 218, 500  # CUresult
REGISTERS = 128  # of a thread, for whoever asks: PTX does not say
CTYPES = {"u64": ctypes.c_uint64, "u32": ctypes.c_uint32, "f32": ctypes.c_float}


@dataclass
class Loaded:
    """A function of a loaded module. `shared` is what a launch may ask for."""

    kernel: Kernel
    text: str
    shared: int = FREE_SHARED


class Launched(NamedTuple):
    """A launch as it reached the driver: grid and block in `geometry`, with the bytes of shared memory."""

    entry: str
    geometry: list[int]
    stream: int
    values: list[int | float]


Execute = Callable[[Program, tuple[int, int], list[int | float], int], None]


class DriverLibrary:
    """Stands in for the driver's library of one card.

    Args:
        capability: of the card.
        version: CUDA version, as the driver counts it.
        fail: CUDA errors by the name of the call that gives them.
        execute: runs a launch: program, grid, values of the parameters, bytes of shared memory. None: nobody does.
        changed: changes the text of a module before it is loaded.
        shared_base: address of a block's shared memory. From sm_90 on it lies behind what the driver keeps there.

    Attributes:
        calls: name and arguments of each call.
        launches: what would run, or ran.
        functions: in the order in which they were asked for.
    """

    def __init__(
        self, capability: tuple[int, int] = (9, 0), version: int = 13000, fail: dict[str, int] | None = None,
        execute: Execute | None = None, changed: Callable[[str], str] = lambda text: text, shared_base: int = 1024,
    ):  # fmt: skip
        self.capability, self.version, self.fail = capability, version, fail or {}
        self.execute, self.changed, self.shared_base = execute, changed, shared_base
        self.calls: list[tuple[str, tuple]] = []
        self.launches: list[Launched] = []
        self.functions: list[Loaded] = []
        self._modules: list[tuple[str, dict[str, Kernel]]] = []
        self._depth = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: object) -> int:
            self.calls.append((name, arguments))
            if name in self.fail:
                return self.fail[name]
            return getattr(self, f"_{name}", lambda *_: None)(*arguments) or 0

        return call

    @property
    def entries(self) -> list[str]:
        """Names of the kernels that were asked for."""
        return [function.kernel.name for function in self.functions]

    def _cuDriverGetVersion(self, number: object) -> None:  # noqa: N802
        number._obj.value = self.version

    def _cuGetErrorName(self, status: int, name: object) -> None:  # noqa: N802
        name._obj.value = f"CUDA_ERROR_{status}".encode()

    def _cuDevicePrimaryCtxRetain(self, context: object, device: object) -> None:  # noqa: N802
        context._obj.value = CONTEXT

    def _cuCtxPushCurrent_v2(self, context: ctypes.c_void_p) -> int:  # noqa: N802
        self._depth += 1
        return 0 if context.value == CONTEXT else INVALID_CONTEXT

    def _cuCtxPopCurrent_v2(self, context: object) -> int:  # noqa: N802
        self._depth -= 1
        return 0 if self._depth >= 0 else INVALID_CONTEXT

    def _cuModuleLoadDataEx(self, module: object, ptx: ctypes.c_char_p, *options: object) -> int:  # noqa: N802
        text = self.changed(ptx.value.decode())
        kernels = parse(text)
        refused = self._refusal(next(iter(kernels.values())).target)
        self._modules.append((text, kernels))
        module._obj.value = len(self._modules)
        return refused

    def _refusal(self, target: str) -> int:
        """PTX runs on its own architecture and newer ones; that of `sm_90a` and the like on its own alone."""
        own, card = int(target.removeprefix("sm_").rstrip("a")), 10 * self.capability[0] + self.capability[1]
        if card < own:
            return NO_BINARY
        return INVALID_PTX if target.endswith("a") and card != own else 0

    def _cuModuleGetFunction(self, function: object, module: ctypes.c_void_p, entry: ctypes.c_char_p) -> int:  # noqa: N802
        text, kernels = self._modules[module.value - 1]
        if entry.value.decode() not in kernels:
            return NOT_FOUND
        self.functions.append(Loaded(kernels[entry.value.decode()], text))
        function._obj.value = len(self.functions)
        return 0

    def _cuFuncGetAttribute(self, value: object, attribute: int, function: ctypes.c_void_p) -> None:  # noqa: N802
        value._obj.value = REGISTERS

    def _cuFuncSetAttribute(self, function: ctypes.c_void_p, attribute: int, value: int) -> int:  # noqa: N802
        if attribute != MAX_DYNAMIC_SHARED or value > MAX_SHARED.get(self.capability, MIN_SHARED):
            return INVALID_VALUE
        self.functions[function.value - 1].shared = value
        return 0

    def _cuLaunchKernel(self, function: ctypes.c_void_p, *rest: object) -> int:  # noqa: N802
        *geometry, stream, pointers, extra = rest
        loaded = self.functions[function.value - 1]
        grid, blocks, threads, shared = geometry[:2], geometry[2], geometry[3:6], geometry[6]
        if not self._depth:
            return INVALID_CONTEXT
        fits = all(0 < count <= most for count, most in zip(grid, MAX_BLOCKS, strict=True)) and blocks == 1
        if not fits or threads != [loaded.kernel.threads, 1, 1] or shared > loaded.shared or extra is not None:
            return INVALID_VALUE
        kinds = loaded.kernel.parameters.values()
        values = [CTYPES[kind].from_address(at).value for kind, at in zip(kinds, pointers, strict=True)]
        self.launches.append(Launched(loaded.kernel.name, geometry, stream.value, values))
        if self.execute is not None:
            self.execute(program_of(loaded, self.shared_base), tuple(grid), values, shared)
        return 0


_programs: dict[tuple[str, str, int], Program] = {}


def program_of(loaded: Loaded, shared_base: int) -> Program:
    """The program of a function, made once for each text."""
    key = loaded.text, loaded.kernel.name, shared_base
    if key not in _programs:
        _programs[key] = Program(loaded.kernel, shared_base)
    return _programs[key]
