"""Measurements of the pack, and the tables and figures that are made of them."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS / folder) for folder in ("support", "integration", "kernels", "")]

import load_pack  # noqa: E402, F401
