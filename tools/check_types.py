"""Checks the types of the pack's interfaces with mypy; `python3 dev.py lint` runs it.

    python -m tools.check_types

mypy needs a package whose name is an identifier, which a clone's folder may not have: it is given a copy of the sources
as `sparse_vdit`, which keeps its cache from one time to the next.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sparse_vdit"
SOURCES = ("kernels", "plans", "nodes")
CHECKED = ("kernels", "plans", "nodes.host")


def copy_sources(folder: Path) -> None:
    """The pack's Python files as a package in a folder, with the times that they were changed at."""
    shutil.rmtree(folder / PACKAGE, ignore_errors=True)
    for name in SOURCES:
        for path in (ROOT / name).rglob("*.py"):
            target = folder / PACKAGE / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    shutil.copy2(ROOT / "__init__.py", folder / PACKAGE)


def check(folder: Path) -> int:
    """mypy's exit status for the pack in a folder."""
    packages = [word for name in CHECKED for word in ("--package", f"{PACKAGE}.{name}")]
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(folder / "cache")]
    return subprocess.run([sys.executable, "-m", "mypy", *config, *packages], cwd=folder).returncode


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    environment = Path(sys.prefix) / "types"
    folder = environment if sys.prefix != sys.base_prefix else Path(tempfile.mkdtemp())
    copy_sources(folder)
    return check(folder)


if __name__ == "__main__":
    sys.exit(main())
