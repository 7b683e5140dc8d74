"""The tests' small Wan is ComfyUI's Wan: what is measured on the one holds for the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfyui.models import write_models
from comfyui.scripts import run_script
from tolerances import SAMPLED

pytestmark = pytest.mark.comfyui


def test_same_weights_and_input_give_the_same_output(tmp_path: Path) -> None:
    write_models(tmp_path)
    untested = "the small Wan was not compared with ComfyUI's Wan"
    found = run_script("compare_small_wan.py", tmp_path, str(tmp_path / "small_wan.safetensors"), untested=untested)
    assert len(found["small_wan"]) == 3
    assert max(found["small_wan"]) <= SAMPLED, found
    for name, (dense, sparse, calls) in found["variants"].items():  # Wan 2.1 image to video, Wan 2.2 5B
        assert dense <= SAMPLED < sparse, (name, found)
        assert calls == 2, (name, found)
