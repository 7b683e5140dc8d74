"""Versions of what a measurement ran on, for provenance."""

from __future__ import annotations

import importlib.metadata
import platform

import torch


def installed_versions() -> dict[str, str]:
    """Versions of Python, torch and, where installed, Triton."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("triton", "triton-windows"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
