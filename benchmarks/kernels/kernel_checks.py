"""What can be known of the kernels without a GPU: code compiled for every card, numbers, memory and balance.

    python -m benchmarks.kernels.kernel_checks

Rows of the result file by their `check`: `code` (one kernel of one architecture, from `tools/aot.py`), `numbers` (one
case of the tests, interpreted, against the fp64 oracle) and `memory` (one model's shape). Needs Triton; some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

os.environ["TRITON_INTERPRET"] = "1"

from sparse_vdit.kernels.backends.launcher import through_triton
from sparse_vdit.kernels.backends.tile_copies import MAX_PACKED, MAX_QUANTIZED, group_size
from sparse_vdit.kernels.backends.triton_backend import run as run_kernels
from sparse_vdit.kernels.configs import AMD_ARCHS, NVIDIA_ARCHS, KernelConfig, kernel_config, packed_config
from sparse_vdit.kernels.oracle import call_attention
from sparse_vdit.kernels.routing import MAX_EXTRA
from sparse_vdit.kernels.tiling import KEY_TILE, QUERY_TILE
from test_kernel_variants import CASES, make_call, run
from tolerances import INT8_RELATIVE_L2, RELATIVE_L2, relative_l2

from benchmarks.kernels.kernel_shapes import SHAPES, Shape, build_lists
from benchmarks.report import results
from tools.schedule import imbalance

WORKERS = 132  # multiprocessors of an H100 or H200
DENSITIES = (0.1, 0.25, 0.5)
COPIES = {
    "int8": (1, MAX_QUANTIZED),
    "fp16_sums": (2, MAX_QUANTIZED),
    "int8_fp16_sums": (3, MAX_QUANTIZED),
    "packed": (4, MAX_PACKED),
}
ROUTED = 0.25  # of the tiles, for all heads


def code_rows() -> list[dict]:
    """Registers, spills, shared memory and tensor-core instructions of every kernel that ships or waits."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found = []
    for arch in (*NVIDIA_ARCHS, *AMD_ARCHS):
        start = time.perf_counter()
        command = [sys.executable, "-m", "tools.aot", arch]
        output = subprocess.run(
            command, cwd=results.ROOT, env=environment, check=True, capture_output=True, text=True
        ).stdout
        found += json.loads(output)
        print(f"{arch}: {time.perf_counter() - start:.0f} s", flush=True)
    return [{"check": "code"} | row for row in found]


def number_rows() -> list[dict]:
    """Relative L2 error for every case of the tests: of the kernels, of other cards', and of torch."""
    found = []
    for case in CASES:
        call = make_call(case)
        truth, grid = call_attention(call), case["grid"]
        known = {
            "check": "numbers", "dtype": str(case["dtype"]).removeprefix("torch."), "head_dim": case["head_dim"],
            "key_bias": case["key_bias"], "grid": [*grid.shape, grid.prefix, grid.suffix],
        }  # fmt: skip
        outputs = {"torch": run(call, "torch"), "triton" + ", INT8" * case["int8"]: run(call, "triton")}
        for name, (arch, config) in other_configs(case).items():
            outputs[f"triton, {name}"] = run_kernels(call, arch, through_triton, config)
        for kernel, out in outputs.items():
            allowed = INT8_RELATIVE_L2 if case["int8"] and kernel != "torch" else RELATIVE_L2[case["dtype"]]
            error = float(f"{relative_l2(out, truth):.2g}")
            found.append(known | {"kernel": kernel, "allowed": allowed, "error": error})
            print(found[-1], flush=True)
    return found


def other_configs(case: dict) -> dict[str, tuple[str, KernelConfig]]:
    """What other cards take for a case, and what none takes yet, by what is special."""
    sums = "sm_89", kernel_config("sm_89", case["head_dim"], case["int8"])
    if case["int8"]:
        return {"INT8, sums in fp16": sums}
    return {"sums in fp16": sums, "packed": ("sm_90", packed_config("sm_90", case["head_dim"]))}


def memory_row(name: str, shape: Shape) -> dict:
    """Bytes that a shape's lists take, and what each kernel takes beside q, k and v as a fraction of them."""
    lists, mixes, _ = build_lists(shape, DENSITIES)
    row = {"check": "memory", "shape": name, "tokens": shape.grid.tokens, "list_bytes": lists.bytes}
    for kernel, (element_bytes, allowed) in COPIES.items():
        row[kernel] = round(element_bytes * group_size(shape.heads, element_bytes, allowed) / (6 * shape.heads), 4)
    row["routed"] = round(routed_bytes(shape, ROUTED) / (6 * shape.grid.tokens * shape.heads * shape.head_dim), 4)
    return row | {
        f"imbalance_{density}": round(imbalance(lists, heads, WORKERS), 4) for density, heads in mixes.items()
    }


def routed_bytes(shape: Shape, share: float) -> float:
    """What choosing tiles takes at its peak with all heads routed, counted: means, lists, scores of one chunk."""
    rows, tiles = shape.grid.video_tokens // QUERY_TILE, shape.grid.video_tokens // KEY_TILE
    means = 4 * shape.heads * (rows + tiles) * shape.head_dim
    lists = 2 * shape.heads * rows * tiles * share
    allowed = MAX_EXTRA * 6 * shape.grid.tokens * shape.heads * shape.head_dim
    chunk = 4 * rows * tiles
    return means + lists + chunk * max(1, min(shape.heads, allowed // chunk))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    memory = [memory_row(name, shape) for name, shape in SHAPES.items()]
    print(*memory, sep="\n", flush=True)
    print("Written to", results.save_results("kernel_checks", [*memory, *number_rows(), *code_rows()]))


if __name__ == "__main__":
    main()
