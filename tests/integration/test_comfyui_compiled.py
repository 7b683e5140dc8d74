"""ComfyUI's own models, compiled: every forward has its own video's layout and every block its own patterns."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfyui.scripts import run_script
from tolerances import SAMPLED

pytestmark = pytest.mark.comfyui

LANDSCAPE, PORTRAIT = [5, 8, 11], [5, 11, 8]


# with PyTorch's attention the code is one graph, as on GPUs; ComfyUI's default on a CPU breaks it in every call
@pytest.mark.parametrize(
    "attention",
    ["--use-pytorch-cross-attention", pytest.param("--use-quad-cross-attention", marks=pytest.mark.slow)],
)
def test_compiled_models_follow_the_videos_shape_and_the_block(tmp_path: Path, attention: str) -> None:
    untested = "its models were not compiled"
    found = run_script("compare_compiled.py", tmp_path, attention, untested=untested)
    blocks = {"wan": 3, "hunyuan_video": 2 + 3}
    assert found.keys() == blocks.keys()
    for name, ways in found.items():
        assert ways.pop("apart") > 100 * SAMPLED
        for way, forwards in ways.items():
            assert [forward["layouts"] for forward in forwards] == [[LANDSCAPE], [PORTRAIT]] * 2, (name, way)
            assert all(forward["sparse"] == blocks[name] and not forward["dense"] for forward in forwards), (name, way)
            assert max(forward["difference"] for forward in forwards) <= SAMPLED, (name, way, forwards)
