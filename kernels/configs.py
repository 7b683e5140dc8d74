"""Fixed launch configurations of the kernels: no autotuning, so that no first call stalls and binaries can be shipped.

Every row is compiled by the tests for its architecture: it fits the shared memory, spills nothing in its main loop and
uses the tensor cores. Which of the possible rows are fastest has to be measured on cards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

NVIDIA_ARCHS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
AMD_ARCHS = ("gfx942", "gfx1100", "gfx1151", "gfx1201")
NO_INT8 = ("sm_100",)
"""Architectures without fast integer matrix products: attention in 8 bits would be slower there."""

HEAD_DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class KernelConfig:
    """How one program of the attention kernel runs.

    Attributes:
        rows: queries of a program; a query tile is one or more programs.
        warps, stages: of the program and of its pipeline.
        registers: that a thread may take at most, so that two programs share a multiprocessor; None for no limit.
        fp16_sums: P V of a key tile is summed in fp16, with values that `quantize_tiles.py` made ready.
        offset_sums: integer sums of q k^T start at an offset whose bits are a float's (`softmax.py`), which saves their
            conversion. Not on sm_90: its products may not read sums that were set after their fence.
        packed: keys and values are copied into tile order, few heads at a time, and read by tensor descriptors.
        segment: keys of the dense segment that are taken at a time.
    """

    rows: int
    warps: int
    stages: int
    registers: int | None = None
    fp16_sums: bool = False
    offset_sums: bool = False
    packed: bool = False
    segment: int = 32


def kernel_config(arch: str, head_dim: int, int8: bool = False) -> KernelConfig:
    """The configuration for an architecture in NVIDIA_ARCHS or AMD_ARCHS."""
    if arch.startswith("gfx1"):  # RDNA 3 holds operands of its products twice, with 32 it spills
        segment = 16 if arch.startswith("gfx11") else 32
        return KernelConfig(rows=64, warps=8, stages=1, offset_sums=int8, segment=segment)
    if arch == "gfx942":
        return KernelConfig(rows=128, warps=8, stages=1, offset_sums=int8)
    # consumer cards sum fp16 products twice as fast in fp16 as in fp32; data center cards do not
    fp16_sums = arch in ("sm_86", "sm_89", "sm_120")
    # at head_dim 64 two programs of half the warps share a multiprocessor, but where products in fp32 are the limit
    small = head_dim == 64 and (arch == "sm_80" or (int8 and fp16_sums))
    # without the limit ptxas takes a few more, and only one program fits a multiprocessor
    registers = 128 if head_dim == 64 and arch in ("sm_90", "sm_100") else None
    return KernelConfig(128, 4 if small else 8, 3, registers, fp16_sums, offset_sums=int8 and arch != "sm_90")


def packed_config(arch: str, head_dim: int) -> KernelConfig | None:
    """The configuration with packed keys and values. No card uses it before it was measured there. None on
    architectures without tensor descriptors, and on sm_120, where it spills."""
    return replace(kernel_config(arch, head_dim), packed=True) if arch in ("sm_90", "sm_100") else None


def device_arch(device: torch.device) -> str | None:
    """Architecture of a device's kernels; None for a device without kernels."""
    if device.type != "cuda":
        return None
    if torch.version.hip is not None:
        name = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        starts = {"gfx942": "gfx942", "gfx950": "gfx942", "gfx110": "gfx1100", "gfx115": "gfx1151", "gfx12": "gfx1201"}
        return next((arch for start, arch in starts.items() if name.startswith(start)), None)
    major, minor = torch.cuda.get_device_capability(device)
    known = {(8, 0): "sm_80", (8, 6): "sm_86", (8, 7): "sm_86", (8, 9): "sm_89", (9, 0): "sm_90"}
    return known.get((major, minor)) or {10: "sm_100", 11: "sm_100", 12: "sm_120"}.get(major)
