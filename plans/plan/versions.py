"""Versions of what a measurement ran on, for provenance."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from pathlib import Path

import torch


def installed_versions() -> dict[str, str]:
    """Versions of the pack, Python, torch and, where installed, Triton."""
    versions = {"sparse-vdit": pack_version(), "python": platform.python_version(), "torch": torch.__version__}
    for name in ("triton", "triton-windows"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def pack_version() -> str:
    """Version in the pack's pyproject.toml, which ComfyUI's registry goes by; `unknown` where the file was left out."""
    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "unknown"
