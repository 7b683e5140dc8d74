"""The tables of predicted speeds, for `tables.py` and for the command that makes them, `sass_speeds.py`."""

from __future__ import annotations

import math
import statistics

from benchmarks.report.result_files import made_by, newest

PREDICTED = "Predicted from machine code; **nothing here was measured by us**."


def mean_and_spread(ratios: list[float]) -> tuple[float, float]:
    """Geometric mean, and by what part a ratio lies beside it (one standard deviation of the logarithms)."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(statistics.fmean(logs)), math.exp(statistics.pstdev(logs)) - 1


def calibration_lines(rows: list[dict]) -> list[str]:
    """One line for each published speed, and how well the model predicts them."""
    rows = [row for row in rows if row["table"] == "calibration"]
    lines = [
        "| published kernel | card | head_dim | published, TFLOP/s | predicted | published / predicted | source |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        source = f"{row['source']}; {row['note']}" if row["note"] else row["source"]
        ratio = f"{row['published'] / row['predicted']:.2f}"
        cells = [row["kernel"], row["card"], row["head_dim"], row["published"], row["predicted"], ratio, source]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, "", accuracy(rows)]


def accuracy(rows: list[dict]) -> str:
    """How near the calibration rows of a result are, all and those on which no number of the model was fitted."""
    rows = [row for row in rows if row["table"] == "calibration"]
    free = [row for row in rows if not row["fitted"]]
    return f"Published / predicted of {_accuracy(rows)}. Of those on which no number was fitted, {_accuracy(free)}."


def _accuracy(rows: list[dict]) -> str:
    ratios = [row["published"] / row["predicted"] for row in rows]
    mean, spread = mean_and_spread(ratios)
    return (
        f"{len(rows)} speeds: geometric mean {mean:.2f}, standard deviation {spread:.0%}, "
        f"from {min(ratios):.2f} to {max(ratios):.2f}"
    )


def shipped_lines(rows: list[dict]) -> list[str]:
    """One line for each architecture, head_dim and precision of q k^T; counts are of the first dtype, bf16."""
    heads = [
        "GPU", "head_dim", "q k^T", "predicted TFLOP/s, bf16 model", "fp16 model",
        "busiest unit, TFLOP/s if it never waited", "tensor cores busy", "instructions", "registers",
        "spills, in the loop", "shared memory, KiB", "programs x warps",
    ]  # fmt: skip
    groups: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        if row["table"] == "shipped":
            kind = (f"{row['card']} ({row['arch']})", row["head_dim"], "8 bits" if row["int8"] else "16 bits")
            groups.setdefault(kind, {})[row["dtype"]] = row
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for kind, same in groups.items():
        row = next(iter(same.values()))
        cells = [
            *kind, *(f"{same[dtype]['predicted']:.0f}" if dtype in same else "-" for dtype in ("bf16", "fp16")),
            f"{row['limit']}, {row['at_limit']:.0f}", f"{row['products_busy']:.0%}", row["instructions"],
            row["registers"], f"{row['spills']}, {row['loop_spills']}", f"{row['shared'] / 1024:.0f}",
            f"{row['programs']} x {row['warps']}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def calibration_table() -> str:
    """Published speeds beside predictions."""
    result = newest("sass_speeds")
    return "\n".join([*calibration_lines(result["rows"]), "", made_by(result)])


def shipped_speeds_table() -> str:
    """Predictions for what ships."""
    result = newest("sass_speeds")
    rows = result["rows"]
    columns = "Columns from the busiest unit on: of the bf16 model's kernel."
    notes = " ".join([PREDICTED, accuracy(rows), columns, order_alone(rows)])
    return "\n".join([*shipped_lines(rows), "", notes, made_by(result)])


def order_alone(rows: list[dict]) -> str:
    """A sentence on how much the order of instructions makes, from kernels that hardly differ in anything else."""
    speeds = {row["file"]: row["predicted"] for row in rows if row["table"] == "shipped"}
    pairs = [(speed, speeds[file.replace("-bf16-", "-fp16-")]) for file, speed in speeds.items() if "-bf16-" in file]
    most = max(max(pair) / min(pair) - 1 for pair in pairs)
    return (
        f"Kernels of bf16 and fp16 models have nearly the same instructions in another order, and are predicted up to "
        f"{most:.0%} apart: smaller differences mean little."
    )
