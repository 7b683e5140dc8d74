"""Makes what ships with the pack: kernels compiled ahead of time and plans from public measurements. Not published."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import load_pack  # noqa: F401
