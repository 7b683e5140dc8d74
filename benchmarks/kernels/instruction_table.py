"""The table of instructions for each key tile, from the record of the last run of the shipped kernels on the PTX
machine (`tests/ptx`)."""

from __future__ import annotations

from ptx import whole_run
from ptx.counts import ORDER
from sparse_vdit.kernels.backends import shipped

DTYPE = "bf16"  # fp16 differs in conversions alone


def instructions_table() -> str:
    """One row for each attention kernel of a dtype whose instructions differ."""
    record = whole_run.read()
    rows = [row for row in record["rows"] if row["instructions"] and f"-{DTYPE}-" in row["files"][0]]
    names = [name for name in ORDER if any(name in row["instructions"] for row in rows)]
    lines = [f"| GPU | head_dim | q k^T | all | {' | '.join(names)} |", "|---" * (4 + len(names)) + "|"]
    for row in rows:
        constants, counts = shipped.binary(row["files"][0]).constants, row["instructions"]
        cells = [
            ", ".join(file.split("/")[0] for file in row["files"]),
            str(constants["HEAD_DIM"]),
            "8 bits" if constants["INT8"] else "16 bits",
            f"{sum(counts.values()):.0f}",
            *(f"{counts[name]:.3g}" if name in counts else "-" for name in names),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    cases = sum(row["cases"] for row in record["rows"] if row["instructions"])
    kernels = sum(bool(row["instructions"]) for row in record["rows"])
    return "\n".join(
        [
            *lines,
            "",
            f"{DTYPE}. Of the run in which {kernels} kernels were right on {cases} cases: `{record['command']}`.",
        ]
    )
