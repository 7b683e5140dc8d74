"""The nodes that users drag, one per file."""

from __future__ import annotations

__all__ = ["SparseVDiTExtension"]


def __getattr__(name: str) -> object:
    """Imports the nodes when they are asked for, so that most of nodes/host also works without ComfyUI."""
    if name != "SparseVDiTExtension":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .extension import SparseVDiTExtension

    return SparseVDiTExtension
