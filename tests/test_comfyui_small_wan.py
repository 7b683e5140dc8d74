"""The tests' small Wan is ComfyUI's Wan: what is measured on the one holds for the other."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from comfyui.installation import ROOT, comfyui_path, comfyui_python
from comfyui.models import write_models
from tolerances import SAMPLED

pytestmark = pytest.mark.comfyui


def test_same_weights_and_input_give_the_same_output(tmp_path: Path) -> None:
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; the small Wan was not compared with ComfyUI's Wan")
    write_models(tmp_path)
    script = ROOT / "tests" / "comfyui" / "compare_small_wan.py"
    result = subprocess.run(
        [comfyui_python(comfyui), str(script), str(comfyui), str(tmp_path / "small_wan.safetensors")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found["small_wan"]) == 3
    assert max(found["small_wan"]) <= SAMPLED, found
    for name, (dense, sparse, calls) in found["variants"].items():  # Wan 2.1 image to video, Wan 2.2 5B
        assert dense <= SAMPLED < sparse, (name, found)
        assert calls == 2, (name, found)
