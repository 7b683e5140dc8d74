"""Every kernel configuration compiles for every supported GPU: fits, spills nothing, uses tensor cores, pipelines."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache

import pytest
from load_pack import ROOT
from sparse_vdit.kernels.configs import AMD_ARCHS, NO_INT8, NVIDIA_ARCHS, kernel_config, packed_config

ARCHS = (*NVIDIA_ARCHS, *AMD_ARCHS)
QUICK = ("sm_90", AMD_ARCHS[0])  # one of each maker; compiling takes a minute for each
HELPERS = ("quantize_keys", "quantize_values", "quantize_both", "tile_means_64", "tile_means_128", "select_tiles")

FEW_SPILLS = 24
"""Where two programs share a multiprocessor: before and after the main loop, in which `test_sass_counts.py` wants none.
"""

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def cases(archs: Sequence[str]) -> list:
    """(arch, dtype, head_dim) of architectures, those that are not quick ones marked slow."""
    return [
        pytest.param(arch, dtype, head_dim, marks=() if arch in QUICK else pytest.mark.slow)
        for arch in archs for dtype in ("bf16", "fp16") for head_dim in (64, 128)
    ]  # fmt: skip


@cache
def compiled(arch: str) -> dict:
    """What `aot.py` read out, by case and kernel; a process of its own, because the interpreter must be off there."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-m", "tools.aot", arch], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    return {(row["dtype"], row["head_dim"], row["kernel"]): row for row in json.loads(result.stdout)}


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


@pytest.mark.parametrize(("arch", "dtype", "head_dim"), cases(ARCHS))
def test_kernels_are_clean(arch: str, dtype: str, head_dim: int) -> None:
    packed = packed_config(arch, head_dim) is not None
    kernels = ["attention", *["attention_int8"] * (arch not in NO_INT8), *["attention_packed"] * packed]
    for kernel in kernels:
        row = compiled(arch)[dtype, head_dim, kernel]
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
        row = compiled(arch)[dtype, head_dim, kernel]
        assert row["shared"] <= row["shared_limit"], row
        assert row["spills"] == 0, row


@pytest.mark.parametrize(("arch", "dtype", "head_dim"), cases(("sm_80", "sm_90")))
def test_a_lost_buffer_would_be_seen(arch: str, dtype: str, head_dim: int) -> None:
    """A kernel with one stage less has less memory than is asked of the full pipeline."""
    short, full = (compiled(arch)[dtype, head_dim, kernel] for kernel in ("attention_short", "attention"))
    assert short["shared"] < pipeline_bytes(full), (short, full)


@pytest.mark.slow  # a wall time, for an idle machine alone
@pytest.mark.parametrize("arch", ARCHS)
def test_a_model_compiles_in_seconds(arch: str) -> None:
    """All that the first call in 8 bits makes."""
    attention = "attention" if arch in NO_INT8 else "attention_int8"
    names = (attention, "quantize_both", "tile_means_64", "tile_means_128", "select_tiles")
    assert sum(compiled(arch)["bf16", 128, name]["seconds"] for name in names) <= 15
