"""Fixed launch configurations of the kernels: no autotuning, so that no first call stalls and binaries can be shipped.

Every row is compiled by the tests for its architecture: it fits the shared memory, spills nothing and uses the tensor
cores. Which of the possible rows are fastest has to be measured on cards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

NVIDIA_ARCHS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
AMD_ARCHS = ("gfx942", "gfx1201")
HEAD_DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class KernelConfig:
    """How one program of the attention kernel runs.

    Attributes:
        rows: queries of a program; a query tile is one or more programs.
        warps, stages: of the program and of its pipeline.
        pv: arithmetic of P V, see `triton_kernels/softmax.py`. In `fp8` a Hopper sums products with some 14 bits, over
            all keys: sums of their own in fp32 would spill.
        packed: keys and values are copied into tile order, few heads at a time, and read by tensor descriptors. For
            sm_90 and sm_100.
    """

    rows: int
    warps: int
    stages: int
    pv: str = "model"
    packed: bool = False


def kernel_config(arch: str, head_dim: int, int8: bool = False, tail: bool = False) -> KernelConfig:
    """The configuration for an architecture in NVIDIA_ARCHS or AMD_ARCHS."""
    if arch == "gfx1201":
        return KernelConfig(rows=64, warps=8, stages=1)
    if arch == "gfx942":
        return KernelConfig(rows=128, warps=8, stages=1)
    # consumer cards sum fp16 products twice as fast in fp16 as in fp32; data center cards do not. With the loop over
    # summaries, the second accumulator would spill at head_dim 128.
    fp16_sums = int8 and arch in ("sm_86", "sm_89", "sm_120") and not (tail and head_dim == 128)
    # sm_100 has no 8-bit integer products of its own generation: q k^T runs on the old ones there, and may gain nothing
    stages = 4 if int8 and head_dim == 64 else 3  # with 3, sm_86 and sm_89 spill a little
    return KernelConfig(rows=128, warps=8, stages=stages, pv="fp16" if fp16_sums else "model")


def untried_configs(arch: str, head_dim: int, int8: bool) -> dict[str, KernelConfig]:
    """Configurations without a tail that compile cleanly and that no card takes before they were measured, by name.

    `packed` against reading token by token (on sm_120 tensor descriptors spill); `fp8`, less exact, where the chip
    multiplies fp8 (sm_100 has no 8-bit integer products beside it); `stages_2`, a shorter pipeline.
    """
    own, found = kernel_config(arch, head_dim, int8), {}
    if arch in ("sm_90", "sm_100") and not (int8 and head_dim == 64):  # whose products would wait for each other
        found["packed"] = replace(own, packed=True)
    if arch in ("sm_80", "sm_90") or (arch == "sm_120" and not int8):  # elsewhere it spills or has no room to gain
        found["stages_2"] = replace(own, stages=2)
    if int8 and arch in ("sm_89", "sm_90", "sm_120"):
        small = head_dim == 128 and arch != "sm_90"  # with 128 rows these spill
        found["fp8"] = replace(own, pv="fp8", **({"rows": 64, "warps": 4, "stages": 4} if small else {}))
    return found


def device_arch(device: torch.device) -> str | None:
    """Architecture whose configuration a device takes; None for a device without kernels."""
    if device.type != "cuda":
        return None
    if torch.version.hip is not None:
        name = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        return {"gfx942": "gfx942", "gfx950": "gfx942"}.get(name, "gfx1201" if name.startswith("gfx12") else None)
    major, minor = torch.cuda.get_device_capability(device)
    known = {(8, 0): "sm_80", (8, 6): "sm_86", (8, 7): "sm_86", (8, 9): "sm_89", (9, 0): "sm_90"}
    return known.get((major, minor)) or {10: "sm_100", 11: "sm_100", 12: "sm_120"}.get(major)
