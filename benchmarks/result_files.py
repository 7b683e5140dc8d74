"""Finds the result files that tables and pictures are made from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NOT_YET = "*Not yet run on a GPU; `GPU_BACKLOG.md` has the commands.*"


def all_of(benchmark: str, command: str | None = None) -> list[dict]:
    """All results of a benchmark, of one command where it is given, the latest last."""
    found = [(json.loads(file.read_text()), file.name) for file in RESULTS.glob(f"{benchmark}-*.json")]
    wanted = [pair for pair in found if command in (None, pair[0]["command"])]
    if not wanted:
        sys.exit(f"no results of {benchmark} in {RESULTS.relative_to(ROOT)}; run benchmarks/{benchmark}.py first")
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


def made_by(result: dict) -> str:
    """The line below a table."""
    return f"`{result['command']}`, {result['device']}, {result['date']}."
