"""All shipped attention kernels that differ, executed on every case. A new manifest asks for a new run, which writes
the record that is committed beside the machine.
"""

import time

import pytest
from load_pack import ROOT
from ptx import whole_run
from ptx.cases import CASES, bodies, run
from ptx.counts import ORDER, class_of, per_key_tile
from ptx.whole_run import COMMAND, Row
from sparse_vdit.kernels.backends import shipped

from benchmarks.kernels.instruction_table import instructions_table


@pytest.fixture(scope="module")
def rows():
    """Rows by the first of their files. Those of attention are there once all cases were right."""
    found = {}
    yield found
    if {*bodies()} <= {*found}:
        whole_run.write([found[name] for name in sorted(found)])


@pytest.mark.slow
@pytest.mark.parametrize("file", bodies())
def test_a_kernel_is_right_on_every_case(file, rows):
    row, helpers = Row(bodies()[file]), []
    for name, case in CASES.items():
        start = time.perf_counter()
        result = run(case, file)
        seconds = time.perf_counter() - start
        assert result.right, f"{name}: relative L2 {result.error:.2e}"
        row.add(result.error, result.allowed, seconds)
        for other in {ran.file for ran in result.card.runs} - {file}:
            numbers = result.error, result.allowed
            if "tile_means" in other or "select_tiles" in other:
                numbers = 1 - result.chosen_alike, 0.0
            helpers.append((other, (*numbers, seconds)))
    row.instructions = per_key_tile(file)
    rows[file] = row
    for other, numbers in helpers:
        rows.setdefault(other, Row([other])).add(*numbers)


def test_the_last_whole_run_was_for_these_kernels():
    assert whole_run.read()["manifest"] == whole_run.manifest_digest(), f"kernels have changed: {COMMAND}"


def test_the_last_whole_run_had_every_kernel():
    rows = whole_run.read()["rows"]
    ran = sorted(file for row in rows for file in row["files"])
    assert ran == sorted(shipped.manifest()["files"])
    assert all(row["cases"] and 0 <= row["error"] <= row["allowed"] for row in rows)
    cases = {row["cases"] for row in rows if "attention" in row["files"][0]}
    assert cases == {len(CASES)}, f"{cases} cases ran, there are {len(CASES)}: {COMMAND}"


def test_the_table_is_of_the_last_whole_run():
    assert instructions_table() in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8"), (
        "the table is not of the record: .venv/bin/python -m benchmarks.report.tables"
    )


def test_instructions_are_told_apart():
    row = next(row for row in whole_run.read()["rows"] if row["files"][0] == "sm_80/attention-bf16-64")
    assert row["instructions"] == per_key_tile(row["files"][0])
    names = {
        "mma.sync.aligned.m16n8k16": "matrix products", "cp.async.wait_group": "waits", "setp.lt.f32": "whole numbers",
        "tcgen05.wait::st.sync": "waits", "cvt.rn.f32.s32": "conversions", "fma.rn.f32x2": "floats",
    }  # fmt: skip
    assert {opcode: class_of(opcode) for opcode in names} == names
    assert {*names.values()} <= {*ORDER}
