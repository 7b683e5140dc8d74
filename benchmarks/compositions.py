"""What the pack does beside everything else people put into a workflow: the tests of families, compositions and memory,
run in a real ComfyUI on the CPU, and what they found.

    python benchmarks/compositions.py [ARGUMENTS OF PYTEST]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from results import save_results
from small_wan_runs import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from comfyui.recording import FILE

AT_ONCE = 3
"""Test files that run at a time, each with its own server: a server often waits."""

RECORDING = ("comfyui.recording", "comfyui.compositions")
"""What the tests that record something import."""


def main() -> None:
    tests = [test for test in sorted((ROOT / "tests").glob("test_comfyui_*.py")) if records(test)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda test: run_tests(test, Path(folder) / f"{test.stem}.jsonl", sys.argv[1:]), tests))
    rows = [row for of_a_file in found for row in of_a_file]
    for row in rows:
        row.pop("line", None)  # has times in it, which belong to the machine's other work
    print(save_results("compositions", rows))


def records(test: Path) -> bool:
    """Whether the tests of a file record what they find."""
    return any(module in test.read_text() for module in RECORDING)


def run_tests(test: Path, file: Path, arguments: list[str]) -> list[dict]:
    """Rows that the tests of a file record; ends the script where one fails or ComfyUI is missing."""
    command = [sys.executable, "-m", "pytest", "-q", str(test), *arguments]
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, FILE: str(file)}).returncode
    if code or not file.exists():
        sys.exit(f"{test.name} failed or recorded nothing: is there a ComfyUI?")
    return [json.loads(line) for line in file.read_text().splitlines()]


if __name__ == "__main__":
    main()
