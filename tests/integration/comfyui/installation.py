"""Finds a ComfyUI to test in, and the Python that it runs with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def comfyui_path() -> Path | None:
    """$COMFYUI_PATH, the ComfyUI above the pack, or ~/comfy/ComfyUI; None when there is none."""
    given = os.environ.get("COMFYUI_PATH")
    places = [Path(given)] if given else [ROOT.parents[1], Path.home() / "comfy" / "ComfyUI"]
    return next((place for place in places if (place / "main.py").is_file() and (place / "comfy").is_dir()), None)


def comfyui_python(path: Path) -> str:
    """The Python of an installation: its .venv, the portable one beside it, else the running one."""
    for place in (".venv/bin/python", ".venv/Scripts/python.exe", "venv/bin/python", "../python_embeded/python.exe"):
        if (path / place).is_file():
            return str(path / place)
    return sys.executable
