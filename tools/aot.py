"""Compiles the Triton kernels for GPUs that are not there and reads what came out. Prints JSON; a process of its own.

Ahead-of-time compilation needs TRITON_INTERPRET unset, the numeric tests need it set, so tests run this as a script:

    python -m tools.aot sm_80 gfx942
"""

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp())

import load_pack  # noqa: F401
import triton
from sparse_vdit.kernels.configs import HEAD_DIMS, NO_INT8, kernel_config, packed_config

from tools.ahead_of_time import HELPERS, attention_kernel, helper_kernel

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_MEMORY = {
    "sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448, "sm_100": 232_448, "sm_120": 101_376,
    "gfx942": 65_536, "gfx1100": 65_536, "gfx1151": 65_536, "gfx1201": 65_536,
}  # fmt: skip  # bytes one program may take
TENSOR_CORE = r"\b(?:HMMA|HGMMA|UTCHMMA|QMMA|QGMMA|UTCQMMA|IMMA|IGMMA)\b"
INT8_CORE = r"\b(?:IMMA|IGMMA|UTCIMMA)\b"
# of the generation: wgmma on Hopper, tcgen05 on Blackwell's data center chips; older ones have one kind alone
NATIVE_CORE = {"sm_90": r"\b(?:HGMMA|QGMMA|IGMMA)\b", "sm_100": r"\b(?:UTCHMMA|UTCQMMA|UTCIMMA)\b"}
AMD_TENSOR_CORE = r"\bv_(?:mfma|wmma|smfmac)"
AMD_INT8_CORE = r"\bv_(?:mfma|wmma|smfmac)_i32\w*(?:i8|iu8)"


def read_nvidia(compiled: object, arch: str) -> dict:
    """Registers, spill and tensor-core instructions, and what the assembler warns of."""
    with tempfile.TemporaryDirectory() as folder:
        cubin, ptx = Path(folder, "kernel.cubin"), Path(folder, "kernel.ptx")
        cubin.write_bytes(compiled.asm["cubin"])
        usage = subprocess.run([TOOLS / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True).stdout
        sass = subprocess.run([TOOLS / "nvdisasm", "-c", cubin], capture_output=True, text=True, check=True).stdout
        warnings = ""
        if arch == "sm_90":
            ptx.write_text(compiled.asm["ptx"])
            command = [TOOLS / "ptxas", "-v", "--gpu-name=sm_90a", "-o", Path(folder, "again.cubin"), ptx]
            warnings = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {
        "registers": int(re.search(r"REG:(\d+)", usage).group(1)),
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", sass)),
        "tensor_core": len(re.findall(TENSOR_CORE, sass)),
        "native_core": len(re.findall(NATIVE_CORE.get(arch, TENSOR_CORE), sass)),
        "int8_core": len(re.findall(INT8_CORE, sass)),
        "serialised": "are serialized" in warnings,  # of several warnings that ptxas has for it
        "tensor_loads": len(re.findall(r"\bUTMALDG\b", sass)),
    }


def read_amd(compiled: object) -> dict:
    """The same of AMD's assembly."""
    text = compiled.asm["amdgcn"]

    def number(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", text).group(1))

    return {
        "registers": number("vgpr_count"),
        "spills": number("vgpr_spill_count"),
        "tensor_core": len(re.findall(AMD_TENSOR_CORE, text)),
        "native_core": len(re.findall(AMD_TENSOR_CORE, text)),
        "int8_core": len(re.findall(AMD_INT8_CORE, text)),
        "serialised": False,
        "tensor_loads": 0,
    }


def rows(arch: str) -> list[dict]:
    """One row for each configuration of an architecture."""
    found = []
    for dtype, head_dim in itertools.product(("bf16", "fp16"), HEAD_DIMS):
        packed = packed_config(arch, head_dim)
        own = kernel_config(arch, head_dim)
        configs = {
            "attention": own,
            **({"attention_short": dataclasses.replace(own, stages=2)} if own.stages > 1 else {}),
            **({} if arch in NO_INT8 else {"attention_int8": kernel_config(arch, head_dim, int8=True)}),
            **({"attention_packed": packed} if packed else {}),
        }
        for kernel, config in configs.items():
            int8 = kernel == "attention_int8"
            known = {"arch": arch, "kernel": kernel, "dtype": dtype, "head_dim": head_dim, "int8": int8}
            known |= dataclasses.asdict(config)
            found.append(known | read(arch, partial(attention_kernel, arch, dtype, head_dim, int8, config)))
        for name in (*HELPERS, "select_tiles", *(["pack_tiles"] if packed else [])):
            known = {"arch": arch, "kernel": name, "dtype": dtype, "head_dim": head_dim}
            found.append(known | read(arch, partial(helper_kernel, name, arch, dtype, head_dim)))
    return found


def read(arch: str, make: Callable[[], object]) -> dict:
    """Compile a kernel and read what came out."""
    start = time.perf_counter()
    compiled = make()
    seconds = round(time.perf_counter() - start, 2)
    known = {"seconds": seconds, "shared": compiled.metadata.shared, "shared_limit": SHARED_MEMORY[arch]}
    return known | (read_nvidia(compiled, arch) if arch.startswith("sm_") else read_amd(compiled))


def main() -> None:
    print(json.dumps([row for arch in sys.argv[1:] for row in rows(arch)]))


if __name__ == "__main__":
    main()
