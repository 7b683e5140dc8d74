"""What the pack does beside everything else people put into a workflow: the tests of families, compositions and memory,
run in a real ComfyUI on the CPU, and what they found.

    python -m benchmarks.models.compositions [ARGUMENTS OF PYTEST]
    python -m benchmarks.models.compositions -k 'not compiled'

Writes benchmarks/results/compositions-<device>-<date>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from comfyui.installation import comfyui_path
from comfyui.recording import FILE

from benchmarks.quality.small_wan_runs import ROOT
from benchmarks.report.results import save_results

AT_ONCE = 3
"""Test files that run at a time, each with its own server: a server often waits."""

RECORDING = ("comfyui.recording", "comfyui.compositions")
"""What the tests that record something import."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    _, arguments = parser.parse_known_args()
    if comfyui_path() is None:
        parser.error("there is no ComfyUI above this folder or in ~/comfy: set COMFYUI_PATH to one")
    tests = [test for test in sorted((ROOT / "tests" / "integration").glob("test_comfyui_*.py")) if records(test)]
    if pytest_ends(tests, ["--collect-only", "-qq", *arguments], stdout=subprocess.DEVNULL):
        parser.error(f"pytest finds no test to run with {shlex.join(arguments)}")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda test: run_tests(test, Path(folder) / f"{test.stem}.jsonl", arguments), tests))
    rows = [row for of_a_file in found for row in of_a_file]
    if not rows:
        sys.exit(f"none of the tests that ran with {shlex.join(arguments)} records something")
    for row in rows:
        row.pop("line", None)  # has times in it, which belong to the machine's other work
    print(save_results("compositions", rows))


def records(test: Path) -> bool:
    """Whether the tests of a file record what they find."""
    return any(module in test.read_text() for module in RECORDING)


def pytest_ends(tests: list[Path], arguments: list[str], **options: object) -> int:
    """Exit code of pytest on some files."""
    command = [sys.executable, "-m", "pytest", *map(str, tests), *arguments]
    return subprocess.run(command, cwd=ROOT, **options).returncode


def run_tests(test: Path, file: Path, arguments: list[str]) -> list[dict]:
    """Rows that the tests of a file record, none where none is selected; ends the script where one fails."""
    code = pytest_ends([test], ["-q", *arguments], env={**os.environ, FILE: str(file)})
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        sys.exit(f"{test.name} failed: pytest says above why")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


if __name__ == "__main__":
    main()
