"""Measurements of the pack, and the tables and figures that are made of them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import load_pack  # noqa: F401
