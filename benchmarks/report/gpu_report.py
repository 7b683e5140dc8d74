"""What `gpu.py` writes: a page to read, and the same as JSON for an issue of the project."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path

from benchmarks.report.gpu_steps import Found, Row, newest, read_json

KERNEL_COLUMNS = {
    "shape": "shape", "method": "method", "density": "density", "ms": "ms", "fraction_of_best_dense": "rate of dense",
    "fraction_of_ideal": "rate of own dense", "rel_l2": "error", "prepare_fraction_of_dense": "preparation",
}  # fmt: skip
MODEL_COLUMNS = {
    "model": "model", "method": "method", "seconds_per_forward": "s per forward", "speedup": "times as fast as dense",
    "first_call_seconds": "first call, s", "extra_peak_fraction": "more memory", "rel_l2": "error",
}  # fmt: skip
NEXT = (
    "Please attach `report.json` to an issue of the project, whatever it says. `benchmarks/GPU_BACKLOG.md` lists what "
    "these numbers decide."
)
NO_GPU_HELP = (
    "torch finds no GPU here. Name the Python of a ComfyUI that uses the card: `python3 dev.py gpu --python PYTHON`. "
    "Or set TORCH_INDEX_URL to PyTorch's index for your CUDA version before the first `python3 dev.py gpu`."
)
LEGENDS = {
    "Kernels": "`rate of dense`: work per second on the kept tiles, as a part of the fastest dense kernel in 16 bits "
    "(SageAttention and 8-bit kernels are rows of their own where they are installed). `rate of own dense`: the same "
    "against our own kernel with nothing left out. `preparation`: time before attention, as a part of a dense call. "
    "`error`: relative, against exact attention on the same tiles; rounding explains up to 0.01, in 8 bits 0.03.",
    "Whole models": "`error`: distance to the dense output, on random weights, which says nothing of real videos. "
    "`more memory`: at the peak, as a part of the dense forward's.",
}


def table(rows: list[Row], columns: dict[str, str]) -> list[str]:
    """Lines of a Markdown table; rows without a number say why."""
    lines = ["| " + " | ".join(columns.values()) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [shown(row.get(name)) for name in columns]
        if "skipped" in row:
            cells = [*cells[:2], f"skipped: {row['skipped']}", *[""] * (len(columns) - 3)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def shown(value: object) -> str:
    """A table's cell."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")


def write(folder: Path, results: dict[str, tuple[Found, float]], trial: bool) -> None:
    """Both files, of what is known so far: each step's outcome and seconds."""
    machine = read_json(folder / "machine.json") or {}
    head = {"date": datetime.date.today().isoformat(), "trial": trial, "machine": machine}
    steps = {
        name: {"status": found.status, "said": found.said, "seconds": round(seconds, 1), "rows": found.rows}
        for name, (found, seconds) in results.items()
    }
    content = finite({"report": "sparse-vdit-gpu", **head, "steps": steps})
    (folder / "report.json").write_text(json.dumps(content, indent=1, allow_nan=False))
    (folder / "report.md").write_text("\n".join(page(folder, head, results)) + "\n", encoding="utf-8")


def finite(value: object) -> object:
    """A value as JSON can say it: numbers that are not finite as None."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def page(folder: Path, head: dict, results: dict[str, tuple[Found, float]]) -> list[str]:
    """Lines of report.md."""
    machine = head["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    lines = [f"# Sparse-vDiT on {machine.get('gpu') or 'no GPU'}", "", f"{head['date']}. {versions}."]
    if head["trial"]:
        lines += ["", "**Tried on a CPU on toys: the numbers mean nothing.**"]
    lines += ["", "| step | result | seconds | |", "|---|---|---|---|"]
    for name, (found, seconds) in results.items():
        lines.append(f"| {name} | {found.status} | {seconds:.0f} | {shown(found.said)} |")
    for title, benchmark, columns in (
        ("Kernels", "kernels", KERNEL_COLUMNS), ("Whole models", "end_to_end", MODEL_COLUMNS)
    ):  # fmt: skip
        rows = newest(folder, benchmark)
        if rows:
            lines += ["", f"## {title}", "", *table(rows, columns), "", LEGENDS[title], ""]
            lines += [f"![{title}]({picture.name})" for picture in sorted(folder.glob(f"{benchmark}-*.png"))]
    if not machine.get("gpu"):
        return [*lines, "", NO_GPU_HELP]
    return lines if head["trial"] else [*lines, "", NEXT]
