"""A card that is not there: plugged in, the shipped kernels run on the CPU's tensors as they would on a card's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from sparse_vdit.kernels.backends import compiled_backend, cuda_driver, shipped, triton_backend
from sparse_vdit.kernels.backends.launcher import KERNELS, Launch
from torch import Tensor

from .global_memory import GlobalMemory
from .library import DriverLibrary
from .machine import Machine
from .program import Program

STREAM = 77
CUDA = torch.device("cuda", 0)
CAPABILITIES = {arch: own for own, arch in (shipped.PORTABLE | shipped.EXACT).items()}
OUTPUTS = {  # parameters that a kernel writes; all others it may read alone
    "block_sparse_fwd_kernel": {"OUT"},
    "quantize_tiles_kernel": {"K_TILES", "V_TILES", "K_SCALE"},
    "select_tiles_kernel": {"KV_INDICES"},
    "tile_means_kernel": {"OUT"},
}


@dataclass(frozen=True)
class Run:
    """A launch that ran: the shipped file's name and the launch."""

    file: str
    launch: Launch


class Card:
    """Executes launches on a machine.

    Attributes:
        runs: what ran, in order.
    """

    def __init__(self, capability: tuple[int, int], machine: Machine, **options: object):
        self.capability, self.machine = capability, machine
        self.library = DriverLibrary(capability, execute=self._execute, **options)
        self.runs: list[Run] = []
        self._memory: GlobalMemory | None = None

    def announce(self, launch: Launch, start: Callable[[Launch], None]) -> None:
        """Start a launch with its tensors as global memory: the driver gets addresses alone."""
        arch, dtype = shipped.arch_of(self.capability), shipped.DTYPE_NAMES.get(launch.arguments[0].dtype, "")
        self.runs.append(Run(shipped.file_name(arch, launch.kernel, dtype, launch.constants), launch))
        self._memory = memory_of(launch)
        try:
            start(launch)
        finally:
            self._memory = None

    def _execute(self, program: Program, grid: tuple[int, int], values: list[int | float], shared: int) -> None:
        self.machine.launch(program, self._memory, grid, values, shared)


def memory_of(launch: Launch) -> GlobalMemory:
    """Global memory of a launch: the elements of its tensors, and nothing else of their storages.

    Outputs may be written and not read. An output that is also an input only stands where the kernel writes nothing.
    """
    entry = KERNELS[launch.kernel][1]
    if entry not in OUTPUTS:
        raise KeyError(f"{entry} is new: name the parameters that it writes in OUTPUTS")
    names = shipped.manifest()["kernels"][entry]["parameters"]
    named = [(name, x) for name, x in zip(names, launch.arguments, strict=True) if isinstance(x, Tensor) and x.numel()]
    inputs = {x.data_ptr() for name, x in named if name not in OUTPUTS[entry]}
    memory, ranges = GlobalMemory(), {}
    for name, x in named:
        storage = x.untyped_storage()
        if storage.data_ptr() not in ranges:
            ranges[storage.data_ptr()] = memory.add(name, storage.data_ptr(), storage.nbytes())
        found = ranges[storage.data_ptr()]
        rights = found.readable if x.data_ptr() in inputs else found.writable
        _elements(rights, x).fill_(1)
    return memory


def _elements(what: np.ndarray, x: Tensor) -> Tensor:
    """Bytes of the elements of x in an array over its storage."""
    size = x.element_size()
    whole = torch.from_numpy(what[: len(what) // size * size]).view(-1, size)
    return whole.as_strided((*x.shape, size), (*(step * size for step in x.stride()), 1), x.storage_offset() * size)


@contextmanager
def plugged(capability: tuple[int, int], machine: Machine | None = None, **options: object) -> Iterator[Card]:
    """Let tensors of the CPU count as tensors of a card of this capability, for the backend `compiled`.

    What self-tests said of the backend is remembered by device: `attention.forget_failures` between two cards.

    Args:
        machine: that runs the launches.
        options: of `DriverLibrary`.
    """
    card = Card(capability, machine or Machine(), **options)
    with library_plugged(card.library):
        no_card, start = compiled_backend._no_card, compiled_backend.through_driver
        with (
            mock.patch.object(compiled_backend, "_no_card", lambda device: no_card(CUDA)),
            mock.patch.object(compiled_backend, "through_driver", lambda launch: card.announce(launch, start)),
        ):
            yield card


@contextmanager
def library_plugged(library: DriverLibrary) -> Iterator[DriverLibrary]:
    """Let a library answer as the driver of the only card."""
    driver = cuda_driver.Driver(library)
    with (
        mock.patch.dict(compiled_backend._loaded, clear=True),
        mock.patch.object(compiled_backend, "open_driver", lambda: driver),
        mock.patch.object(compiled_backend, "_capability", lambda device: library.capability),
        mock.patch.object(compiled_backend, "_stream", lambda device: STREAM),
        mock.patch.object(torch.cuda, "get_device_name", lambda device: "a card"),
        mock.patch.object(triton_backend, "INTERPRETED", False),
    ):
        yield library
