"""Compiles the Triton kernel for GPUs that are not there and reads what came out. Prints JSON; a process of its own.

Ahead-of-time compilation needs TRITON_INTERPRET unset, the numeric tests need it set, so tests run this as a script:

    python tests/aot.py sm_80 sm_90
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp())

import load_pack  # noqa: F401
import triton
from sparse_vdit.kernels.backends.triton_backend import CONFIGS
from sparse_vdit.kernels.backends.triton_kernel import block_sparse_fwd_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 120: 101_376}  # bytes one program may take
TENSOR_CORE = ("HMMA", "HGMMA", "UTCHMMA", "QMMA")
TABLES = {"SLOTS": "*i32", "STARTS": "*i32", "COUNTS": "*i32", "COLUMNS": "*i16", "ORDERS": "*i32", "INDEX": "*i32"}


def compile_kernel(capability: int, dtype: str, head_dim: int) -> object:
    """The kernel as the launcher would compile it for a card of this compute capability."""
    config = CONFIGS[head_dim]
    constants = {"HEAD_DIM": head_dim, "QUERY_TILE": 128, "KEY_TILE": 64, "STAGES": config.stages, "UPCAST": False}
    kernel = block_sparse_fwd_kernel
    types = {**dict.fromkeys(("Q", "K", "V", "OUT"), f"*{dtype}"), **TABLES, "qk_scale": "fp32"}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    aligned = [name for name in kernel.arg_names if name.startswith("stride_") or signature[name].startswith("*")]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": config.warps, "num_stages": config.stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def read_out(compiled: object) -> dict:
    """Shared memory, registers, spill instructions and tensor-core instructions of a compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        usage = subprocess.run([TOOLS / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True).stdout
        sass = subprocess.run([TOOLS / "nvdisasm", "-c", cubin], capture_output=True, text=True, check=True).stdout
    return {
        "shared": compiled.metadata.shared,
        "registers": int(re.search(r"REG:(\d+)", usage).group(1)),
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", sass)),
        "tensor_core": sum(len(re.findall(rf"\b{name}\b", sass)) for name in TENSOR_CORE),
        "async_copies": len(re.findall(r"\bLDGSTS\b", sass)),
    }


def main() -> None:
    rows = []
    for target in sys.argv[1:]:
        capability = int(target.removeprefix("sm_"))
        for dtype in ("bf16", "fp16"):
            for head_dim in sorted(CONFIGS):
                row = read_out(compile_kernel(capability, dtype, head_dim))
                limit = SHARED_MEMORY[capability]
                rows.append({"target": target, "dtype": dtype, "head_dim": head_dim, "shared_limit": limit, **row})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
