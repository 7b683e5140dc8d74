"""Result files: one JSON per benchmark, device and day, that tables and figures are made from."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from sparse_vdit.plans.plan.versions import installed_versions

from benchmarks.quality.small_wan_runs import ROOT

FOLDER = ROOT / "benchmarks" / "results"


def device_name(device: str) -> str:
    """The name of a GPU, or `cpu`."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)


def free_file(name: str, command: str) -> Path:
    """File for a command's results: none of another command."""
    files = (FOLDER / (f"{name}.json" if number == 1 else f"{name}-{number}.json") for number in itertools.count(1))
    return next(file for file in files if not file.exists() or json.loads(file.read_text())["command"] == command)


def git(*command: str) -> str:
    """What git says of this checkout, nothing where it is none or git is missing."""
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def commit() -> str:
    """Of the code as it is now; dirty when tracked files other than results and pages were changed. $COMMIT says it
    where the code is a copy."""
    given = os.environ.get("COMMIT")
    changed = git("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results", ":!docs", ":!*.md")
    return given or git("rev-parse", "HEAD") + ("-dirty" if changed else "")


COMMIT = commit()
"""Of the code when the benchmark began."""


def script_name() -> str:
    """What follows `python` in the command that runs this script from the project's folder."""
    script = Path(sys.argv[0]).resolve()
    if not script.is_relative_to(ROOT):
        return script.name
    return f"-m {'.'.join(script.relative_to(ROOT).with_suffix('').parts)}"


def save_results(benchmark: str, rows: list[dict], device: str = "cpu", unfinished: bool = False) -> str:
    """Write rows that a torch device gave under benchmarks/results; returns the file's name.

    The same command replaces its file of the same day, another one gets a file with a number. Results that are
    `unfinished`, to which the run adds more, lie beside under an ending of their own, and no table is made of them.
    """
    date = datetime.date.today().isoformat()
    device = device_name(device)
    content = {
        "benchmark": benchmark,
        "device": device if device != "cpu" else f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)",
        "versions": installed_versions(),
        "commit": COMMIT,
        "date": date,
        "command": shlex.join(["python", *script_name().split(), *sys.argv[1:]]),
        "rows": rows,
    }
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    file = free_file(f"{benchmark}-{slug}-{date}", content["command"])
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    head = json.dumps({k: v for k, v in content.items() if k != "rows"}, indent=1)
    earlier = file.with_suffix(".unfinished")
    if unfinished:
        file = earlier
    part = file.with_suffix(".part")  # one that is stopped while it writes leaves the rows before
    part.write_text(f'{head[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')
    part.replace(file)
    if not unfinished:
        earlier.unlink(missing_ok=True)
    return file.relative_to(ROOT).as_posix()
