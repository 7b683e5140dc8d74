"""How a backend starts a kernel: a `Launch` describes it, a `Launcher` runs it. Triton's JIT is the launcher here;
`compiled_backend.py` launches the shipped binaries. Both share everything before the launch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch

KERNELS = {  # module under triton_kernels/ and function
    "attention": ("sparse", "block_sparse_fwd_kernel"),
    "pack_tiles": ("pack_tiles", "pack_tiles_kernel"),
    "quantize_tiles": ("quantize_tiles", "quantize_tiles_kernel"),
    "select_tiles": ("select_tiles", "select_tiles_kernel"),
    "tile_means": ("tile_means", "tile_means_kernel"),
}

SELECT_BLOCK = 1024  # scores that `select_tiles` looks at together


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: name in KERNELS.
        grid: programs along x and y.
        arguments: in the order of the kernel's own, less its constants; the first is a tensor, of the model's dtype
            in all kernels but `select_tiles`. Tensor descriptors (`TensorDescriptor` of Triton) are for Triton alone.
        constants: what the kernel is compiled for, by name.
        warps, stages: of a program and of its pipeline; None leaves the pipeline to the compiler.
        registers: that a thread may take at most; None for no limit.
    """

    kernel: str
    grid: tuple[int, int]
    arguments: tuple[object, ...]
    constants: dict[str, int | str | bool]
    warps: int
    stages: int | None = None
    registers: int | None = None


Launcher = Callable[[Launch], None]


def through_triton(launch: Launch) -> None:
    """Run a launch through Triton, which compiles the kernel at its first use."""
    module, name = KERNELS[launch.kernel]
    kernel = getattr(importlib.import_module(f".triton_kernels.{module}", __package__), name)
    limits = {"num_stages": launch.stages, "maxnreg": launch.registers}
    limits = {name: value for name, value in limits.items() if value is not None}
    device = launch.arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[launch.grid](*launch.arguments, **launch.constants, num_warps=launch.warps, **limits)
