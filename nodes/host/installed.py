"""What must be right before the nodes are registered: a ComfyUI that is new enough, and one copy of the pack alone."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path

import comfyui_version
import folder_paths
from server import PromptServer

LOG = logging.getLogger("sparse_vdit")
NEEDED = (0, 33, 0)
FOLDER = Path(__file__).resolve().parents[2]
MARK = "sparse_vdit_folder"
"""Attribute of the server: folder of the copy of the pack that serves it."""


def too_old(version: str = comfyui_version.__version__) -> str | None:
    """Why the pack cannot run in a ComfyUI of this version, None where it can. A version that is not numbers passes."""
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    if not numbers or (*numbers, 0, 0)[:3] >= NEEDED:
        return None
    return f"needs ComfyUI {'.'.join(map(str, NEEDED))} or newer, this is {version}: update ComfyUI"


def claim_server() -> str | None:
    """Make this copy of the pack the one that serves; returns why another one does already, None where none does."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return None
    serving = getattr(server, MARK, FOLDER)
    setattr(server, MARK, serving)
    if serving == FOLDER:
        return None
    return f"is installed twice, in {serving} and in {FOLDER}: the first one is used, delete one of them"


def has_raylight() -> bool:
    """Whether raylight lies among the custom nodes. It may be loaded after this pack, so its folder is what counts."""
    packs = []
    for folder in folder_paths.get_folder_paths("custom_nodes"):
        with suppress(OSError):  # a folder that cannot be read holds no nodes
            packs += [os.path.join(folder, name) for name in os.listdir(folder) if not name.endswith(".disabled")]
    return any(os.path.isdir(os.path.join(pack, "src", "raylight")) for pack in packs)
