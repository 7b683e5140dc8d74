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
from pathlib import Path

from results import save_results
from small_wan_runs import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from comfyui.recording import FILE

RECORDING = ("comfyui.recording", "comfyui.compositions")
"""What the tests that record something import."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = run_tests(Path(folder) / "found.jsonl", sys.argv[1:])
    for row in rows:
        row.pop("line", None)  # has times in it, which belong to the machine's other work
    print(save_results("compositions", rows))


def run_tests(file: Path, arguments: list[str]) -> list[dict]:
    """Run all tests that record something; ends the script where one fails or ComfyUI is missing."""
    tests = sorted((ROOT / "tests").glob("test_comfyui_*.py"))
    recording = [str(test) for test in tests if any(module in test.read_text() for module in RECORDING)]
    command = [sys.executable, "-m", "pytest", "-q", *recording, *arguments]
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, FILE: str(file)}).returncode
    if code or not file.exists():
        sys.exit(code or "the tests recorded nothing: is there a ComfyUI?")
    return [json.loads(line) for line in file.read_text().splitlines()]


if __name__ == "__main__":
    main()
