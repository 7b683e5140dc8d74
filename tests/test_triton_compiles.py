"""Every kernel configuration compiles for every supported NVIDIA generation: fits, no spills, uses tensor cores."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_120")
CASES = [(target, dtype, head_dim) for target in TARGETS for dtype in ("bf16", "fp16") for head_dim in (64, 128)]
PIPELINE_BUFFERS = 3  # of K and V together; a dependent load in the loop would leave two

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(scope="module")
def compiled() -> dict:
    """What `aot.py` read out, by case; a process of its own, because the interpreter must be off there."""
    script = Path(__file__).with_name("aot.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, script, *TARGETS], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return {(row["target"], row["dtype"], row["head_dim"]): row for row in json.loads(result.stdout)}


@pytest.mark.parametrize(("target", "dtype", "head_dim"), CASES)
def test_kernel_is_clean(compiled, target, dtype, head_dim):
    row = compiled[target, dtype, head_dim]
    assert row["shared"] <= row["shared_limit"]
    assert row["spills"] == 0
    assert row["tensor_core"] > 0
    assert row["shared"] >= PIPELINE_BUFFERS * 2 * 64 * head_dim * 2 * 0.99, "the pipeline lost a buffer"
