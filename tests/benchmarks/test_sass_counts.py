"""The main loops of the shipped kernels have as many instructions as the newest result of `sass_speeds.py` counted."""

import importlib.util

import pytest
from sparse_vdit.plans.plan.versions import installed_versions

from benchmarks.kernels.sass_model import count
from benchmarks.kernels.sass_shipped import attention_files, compiled
from benchmarks.report.result_files import newest

ALLOWED = 0.02
ACCEPT = (
    "If that is meant, run python -m benchmarks.kernels.sass_speeds and python -m benchmarks.report.tables and commit "
    "what they write."
)
FEW = [f"sm_{number}/attention-bf16-{rest}" for number, rest in (
    (80, "128"), (86, "64-int8"), (89, "128-int8"), (90, "128-int8"), (100, "64"), (120, "128"),
)]  # fmt: skip
CASES = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in attention_files()]


def grown(before: int, now: int) -> bool:
    """Whether a loop has more instructions than before, beyond what another order of registers changes."""
    return now > before * (1 + ALLOWED)


@pytest.fixture(scope="module")
def result() -> dict:
    return newest("sass_speeds")


@pytest.fixture(scope="module")
def counted(result: dict) -> dict[str, int]:
    return {row["file"]: row["instructions"] for row in result["rows"] if row["table"] == "shipped"}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton, which has the assembler, is not here")
@pytest.mark.parametrize("name", CASES)
def test_a_main_loop_has_not_grown(result: dict, counted: dict[str, int], name: str) -> None:
    assert name in counted, f"{name} was not counted. {ACCEPT}"
    before, now = counted[name], count(compiled(name)).instructions
    versions = f"counted with Triton {result['versions'].get('triton')}, here {installed_versions().get('triton')}"
    assert not grown(before, now), f"{name}: {now} instructions a key tile, {before} before ({versions}). {ACCEPT}"


def test_every_shipped_kernel_was_counted(counted: dict[str, int]) -> None:
    assert [*counted] == attention_files(), f"other kernels ship than were counted. {ACCEPT}"
    assert {*FEW} <= {*counted}


def test_no_main_loop_spills(result: dict) -> None:
    spilled = {row["file"]: row["loop_spills"] for row in result["rows"] if row["table"] == "shipped"}
    assert not any(spilled.values()), {name: number for name, number in spilled.items() if number}


def test_a_growth_is_seen() -> None:
    assert grown(500, 511) and not grown(500, 510) and not grown(500, 400)
