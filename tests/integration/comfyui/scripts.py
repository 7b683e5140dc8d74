"""Runs a script of this folder with ComfyUI's Python. Such scripts begin with `bare.use_comfyui` and end on JSON."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from .installation import ROOT, comfyui_path, comfyui_python


def run_script(name: str, folder: Path, *arguments: str, untested: str) -> dict:
    """What a script found; fails with its errors, and skips where there is no ComfyUI.

    Args:
        folder: to run it in.
        arguments: after ComfyUI's folder.
        untested: what was not tested without ComfyUI, for the skip's message.
    """
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip(f"NO COMFYUI FOUND: set COMFYUI_PATH to one; {untested}")
    command = [comfyui_python(comfyui), str(Path(__file__).with_name(name)), str(comfyui), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "integration")}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])
