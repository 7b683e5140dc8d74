"""What the pack does beside everything else people put into a workflow: the tests of compositions, run in a real
ComfyUI on the CPU, and what they found.

    python benchmarks/compositions.py            # runs the tests
    python benchmarks/compositions.py FILE       # takes what a run of them wrote to $SPARSE_VDIT_COMPOSITIONS=FILE
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from results import save_results
from small_wan_runs import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    given = parser.parse_args().file
    with tempfile.TemporaryDirectory() as folder:
        file = given or run_tests(Path(folder) / "found.jsonl")
        rows = {}
        for line in file.read_text().splitlines():
            row = json.loads(line)
            row.pop("line", None)  # has times in it, which belong to the machine's other work
            rows[row["family"], row["composition"]] = row  # the last of several runs
    sys.argv = sys.argv[:1]
    print(save_results("compositions", list(rows.values())))


def run_tests(file: Path) -> Path:
    """Run all tests that record something; ends the script where one fails or ComfyUI is missing."""
    tests = sorted((ROOT / "tests").glob("test_comfyui_*.py"))
    recording = [str(test) for test in tests if "comfyui.recording" in test.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", *recording]
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, "SPARSE_VDIT_COMPOSITIONS": str(file)}).returncode
    if code or not file.exists():
        sys.exit(code or "the tests recorded nothing: is there a ComfyUI?")
    return file


if __name__ == "__main__":
    main()
