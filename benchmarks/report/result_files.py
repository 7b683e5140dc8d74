"""Finds the result files that tables and pictures are made from."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SCRIPTS = ROOT / "benchmarks"
NO_TIME = "no time left, go on with --continue"
NOT_YET = "*Not yet run on a GPU; `GPU_BACKLOG.md` has the commands.*"


def as_run_now(command: str) -> str:
    """A recorded command as it is run today: scripts once lay in one folder."""
    script = re.match(r"python benchmarks/(\w+)\.py\b", command)
    file = next(SCRIPTS.glob(f"*/{script[1]}.py"), None) if script else None
    return f"python -m benchmarks.{file.parent.name}.{file.stem}{command[script.end():]}" if file else command


def read(file: Path) -> dict:
    """A result file, its command as it is run today."""
    result = json.loads(file.read_text())
    return {**result, "command": as_run_now(result["command"])}


def all_of(benchmark: str, command: str | None = None) -> list[dict]:
    """All results of a benchmark, of one command where it is given, the latest last."""
    found = [(read(file), file.name) for file in RESULTS.glob(f"{benchmark}-*.json")]
    wanted = [pair for pair in found if command in (None, pair[0]["command"])]
    if not wanted:
        first = as_run_now(f"python benchmarks/{benchmark}.py")
        sys.exit(f"no results of {benchmark} in {RESULTS.relative_to(ROOT)}; run {first} first")
    # of one day those with higher numbers, which are in longer names, are later
    return [result for result, _ in sorted(wanted, key=lambda pair: (pair[0]["date"], len(pair[1]), pair[1]))]


def newest(benchmark: str, command: str | None = None) -> dict:
    """The latest result of a benchmark, of one command where it is given."""
    return all_of(benchmark, command)[-1]


def all_if_any(benchmark: str) -> list[dict]:
    """All results of a benchmark, the latest last; none where it has not run."""
    return all_of(benchmark) if any(RESULTS.glob(f"{benchmark}-*.json")) else []


def newest_if_any(benchmark: str) -> dict | None:
    """The latest result of a benchmark, None where it has not run."""
    return next(reversed(all_if_any(benchmark)), None)


def kept_rows(file: Path | None, benchmark: str) -> list[dict]:
    """Rows of an earlier run that need not be measured again.

    Raises:
        OSError, ValueError: not a result file of the benchmark.
    """
    if file is None:
        return []
    found = json.loads(file.read_text())
    if found.get("benchmark") != benchmark:
        raise ValueError(f"{file} is of {found.get('benchmark')}, not of {benchmark}")
    return [row for row in found["rows"] if row.get("skipped") != NO_TIME]


def latest_of_each(found: list[dict], subject: str) -> dict | None:
    """Results, the latest last, of the device of the last one, as if they were one: of each value of the field
    `subject` the rows of the latest result that measured any of it. None of none."""
    same = [result for result in found if result["device"] == found[-1]["device"]]
    latest = {
        row[subject]: number for number, result in enumerate(same) for row in result["rows"] if "skipped" not in row
    }
    used = sorted({*latest.values()})
    if not used:
        return found[-1] if found else None
    rows = [row for number in used for row in same[number]["rows"] if latest.get(row[subject]) == number]
    return {**found[-1], "rows": rows, "made_by": " ".join(made_by(same[number]) for number in used)}


def of_each(benchmark: str, subject: str) -> dict | None:
    """The same of all results of a benchmark."""
    return latest_of_each(all_if_any(benchmark), subject)


def made_by(result: dict) -> str:
    """The line below a table."""
    if "made_by" in result:
        return result["made_by"]
    return f"`{result['command']}`, {result['device']}, {result['date']}."
