"""Builds the plans that ship, `plans/<family>/*.json`, from public measurements, `plans/measurements/`.

    python benchmarks/build_plans.py             build all
    python benchmarks/build_plans.py --check     build all again and compare with what ships

The same on every machine and day.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import load_pack  # noqa: E402, F401
from sparse_vdit.plans.build import shipped_files  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a file differs")
    check = parser.parse_args().check
    files = shipped_files()
    others = {path for path in (ROOT / "plans").glob("*/*.json") if path not in files}
    for path, content in files.items():
        if check:
            others |= set() if path.is_file() and path.read_bytes() == content else {path}
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    wrong = sorted(path.relative_to(ROOT).as_posix() for path in others)
    if wrong:
        sys.exit(f"not as built: {', '.join(wrong)}")
    print(f"{len(files)} plans, {sum(map(len, files.values())) / 1000:.0f} KB, {'as' if check else ''} built")


if __name__ == "__main__":
    main()
