"""Every kernel configuration compiles for every supported GPU: fits, spills nothing, uses tensor cores, pipelines."""

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sparse_vdit.kernels.configs import AMD_ARCHS, NO_INT8, NVIDIA_ARCHS, kernel_config, packed_config

ARCHS = (*NVIDIA_ARCHS, *AMD_ARCHS)
CASES = [(arch, dtype, head_dim) for arch in ARCHS for dtype in ("bf16", "fp16") for head_dim in (64, 128)]
HELPERS = ("quantize_keys", "quantize_values", "quantize_both", "tile_means_64", "tile_means_128", "select_tiles")

FEW_SPILLS = 24
"""Where two programs share a multiprocessor: before and after the main loop, in which `test_sass_counts.py` wants none.
"""

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(scope="module")
def compiled() -> dict:
    """What `aot.py` read out, by case and kernel; processes of their own, because the interpreter must be off there."""
    script = Path(__file__).with_name("aot.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

    def rows(arch: str) -> list[dict]:
        result = subprocess.run([sys.executable, script, arch], capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [row for part in pool.map(rows, ARCHS) for row in part]
    return {(row["arch"], row["dtype"], row["head_dim"], row["kernel"]): row for row in found}


def pipeline_bytes(row: dict) -> int:
    """Shared memory of as many buffers as a row has stages. A kernel with less has lost its pipeline to a load that
    depends on another.

    Of what lies in tile order the tile number is read in the loop, and there is one buffer less. Instructions that read
    queries from shared memory keep them there besides.
    """
    block, stages, queries = 64 * row["head_dim"], row["stages"], row["rows"] * row["head_dim"]
    if stages == 1:
        return 0
    k = (stages - 1) * block if row["int8"] else stages * block * 2
    v = (stages - row["fp16_sums"]) * block * 2
    from_shared = row["arch"] == "sm_90" or (row["arch"] == "sm_100" and not row["int8"])
    return v + k + from_shared * queries * (1 if row["int8"] else 2)


@pytest.mark.parametrize(("arch", "dtype", "head_dim"), CASES)
def test_kernels_are_clean(compiled: dict, arch: str, dtype: str, head_dim: int) -> None:
    packed = packed_config(arch, head_dim) is not None
    kernels = ["attention", *["attention_int8"] * (arch not in NO_INT8), *["attention_packed"] * packed]
    for kernel in kernels:
        row = compiled[arch, dtype, head_dim, kernel]
        assert row["shared"] <= row["shared_limit"], row
        config = kernel_config(arch, head_dim, row["int8"])
        shared = config.registers is not None or config.warps < 8
        assert row["spills"] <= FEW_SPILLS * shared, row
        assert row["native_core"] > 0, row  # those of the chip's own generation, at least for one of both products
        assert (row["int8_core"] > 0) == ("int8" in kernel), row
        assert (row["tensor_loads"] > 0) == ("packed" in kernel), row
        assert not row["serialised"], row
        assert row["shared"] >= pipeline_bytes(row), row
    for kernel in (*HELPERS, *(["pack_tiles"] if packed else [])):
        row = compiled[arch, dtype, head_dim, kernel]
        assert row["shared"] <= row["shared_limit"], row
        assert row["spills"] == 0, row


SHORTER = [case for case in CASES if case[0] in ("sm_80", "sm_90")]


@pytest.mark.parametrize(("arch", "dtype", "head_dim"), SHORTER)
def test_a_lost_buffer_would_be_seen(compiled: dict, arch: str, dtype: str, head_dim: int) -> None:
    """A kernel with one stage less has less memory than is asked of the full pipeline."""
    short, full = (compiled[arch, dtype, head_dim, kernel] for kernel in ("attention_short", "attention"))
    assert short["shared"] < pipeline_bytes(full), (short, full)


@pytest.mark.slow  # a wall time, for an idle machine alone
@pytest.mark.parametrize("arch", ARCHS)
def test_a_model_compiles_in_seconds(compiled: dict, arch: str) -> None:
    """All that the first call in 8 bits makes."""
    names = (
        "attention" if arch in NO_INT8 else "attention_int8",
        "quantize_both",
        "tile_means_64",
        "tile_means_128",
        "select_tiles",
    )
    assert sum(compiled[arch, "bf16", 128, name]["seconds"] for name in names) <= 15
