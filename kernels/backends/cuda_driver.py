"""The few calls of the CUDA driver that it takes to run a kernel from PTX, through ctypes: no toolkit, no compiler.

The driver comes with every NVIDIA card and compiles PTX itself; it keeps the result on disk, so that only the very
first load of a kernel on a machine takes seconds.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_void_p
from dataclasses import dataclass
from functools import cache

import torch

LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
FREE_SHARED = 48 * 1024  # bytes a program may take without asking
JIT_ERROR_LOG, JIT_ERROR_LOG_BYTES = 5, 6  # CUjit_option
REGISTERS, MAX_DYNAMIC_SHARED = 4, 8  # CUfunction_attribute
PREFER_SHARED = 1  # CUfunc_cache
LOG_BYTES = 8192

OUT_OF_MEMORY = 2
REMEDIES = {
    OUT_OF_MEMORY: "free GPU memory",
    209: "no shipped kernel runs on this card: install Triton",
    218: "update the NVIDIA driver",
    221: "the driver's PTX compiler is missing: install libnvidia-ptxjitcompiler, which belongs to the driver",
    222: "update the NVIDIA driver",
    701: "the card has fewer registers or less shared memory than the kernel takes: install Triton",
}
OTHER_REMEDY = "restart ComfyUI; if it stays, choose the backend torch and report it"


@dataclass(frozen=True)
class Function:
    """A kernel on one device, ready to launch."""

    device: int
    handle: c_void_p


class Driver:
    """The driver's library; any object with the same calls stands in for it.

    Raises:
        torch.OutOfMemoryError: from every method, where the driver lacks memory.
        RuntimeError: from every method; names the call, the CUDA error and what to do.
    """

    def __init__(self, library: object):
        self._library = library
        self._contexts: dict[int, c_void_p] = {}

    def version(self) -> tuple[int, int]:
        """CUDA version that the driver is for, such as (12, 8)."""
        number = ctypes.c_int()
        self._call("cuDriverGetVersion", byref(number))
        return number.value // 1000, number.value % 1000 // 10

    def load(self, device: int, ptx: bytes, entry: str, shared: int) -> Function:
        """Compile PTX for a device (torch's number) and find a kernel in it.

        Args:
            shared: bytes of shared memory a program takes.
        """
        module, handle = c_void_p(), c_void_p()
        with self._context(device):
            self._load_module(module, ptx)
            self._call("cuModuleGetFunction", byref(handle), module, ctypes.c_char_p(entry.encode()))
            if shared > FREE_SHARED:
                self._call("cuFuncSetCacheConfig", handle, PREFER_SHARED)
                self._call("cuFuncSetAttribute", handle, MAX_DYNAMIC_SHARED, shared)
            self._prove_loaded(handle, entry)
        return Function(device, handle)

    def _prove_loaded(self, handle: c_void_p, entry: str) -> None:
        """Ask for a kernel's registers: a driver that loads lazily does not know them before it has compiled it."""
        registers = ctypes.c_int()
        self._call("cuFuncGetAttribute", byref(registers), REGISTERS, handle)
        if registers.value < 1:
            raise RuntimeError(f"the driver loaded {entry} without registers; {OTHER_REMEDY}")

    def launch(
        self,
        function: Function,
        grid: tuple[int, int],
        threads: int,
        shared: int,
        stream: int,
        arguments: Sequence[ctypes._SimpleCData],
    ) -> None:
        """Queue a kernel on a stream (the address that torch gives). Arguments are copied before this returns."""
        pointers = (c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        with self._context(function.device):
            self._call(
                "cuLaunchKernel", function.handle, *grid, 1, threads, 1, 1, shared, c_void_p(stream), pointers, None
            )

    def _load_module(self, module: c_void_p, ptx: bytes) -> None:
        log = ctypes.create_string_buffer(LOG_BYTES)
        options = (ctypes.c_int * 2)(JIT_ERROR_LOG, JIT_ERROR_LOG_BYTES)
        values = (c_void_p * 2)(ctypes.addressof(log), LOG_BYTES)  # the driver takes the size as a pointer's value
        try:
            self._call("cuModuleLoadDataEx", byref(module), ctypes.c_char_p(ptx), 2, options, values)
        except RuntimeError as error:
            said = log.value.decode(errors="replace").strip()
            if said:
                raise type(error)(f"{error} (the driver's compiler says: {said})") from None
            raise

    @contextmanager
    def _context(self, device: int) -> Iterator[None]:
        """torch's context of a device, current: threads that have not used the device yet have none."""
        if device not in self._contexts:
            number, context = ctypes.c_int(), c_void_p()
            self._call("cuDeviceGet", byref(number), device)
            self._call("cuDevicePrimaryCtxRetain", byref(context), number)
            self._contexts[device] = context
        self._call("cuCtxPushCurrent_v2", self._contexts[device])
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", byref(c_void_p()))

    def _call(self, name: str, *arguments: object) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise RuntimeError(f"the NVIDIA driver has no {name}: update the driver") from None
        status = function(*arguments)
        if status:
            kind = torch.OutOfMemoryError if status == OUT_OF_MEMORY else RuntimeError
            raise kind(f"{name} failed: {self._error_name(status)}; {REMEDIES.get(status, OTHER_REMEDY)}")

    def _error_name(self, status: int) -> str:
        name = ctypes.c_char_p()
        self._library.cuGetErrorName(status, byref(name))
        return name.value.decode() if name.value else f"CUDA error {status}"


@cache
def open_driver() -> Driver:
    """The driver of this machine. torch has initialised it by the time that there is a tensor on a GPU.

    Raises:
        RuntimeError: this machine has no driver.
    """
    loader = ctypes.WinDLL if os.name == "nt" else ctypes.CDLL
    try:
        return Driver(loader(LIBRARY))
    except OSError as error:
        raise RuntimeError(f"the NVIDIA driver's {LIBRARY} cannot be loaded ({error}): install the driver") from None
