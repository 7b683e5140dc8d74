"""A chained override is given by ComfyUI's own models what they give without the pack: plain, compiled, and timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from comfyui.scripts import run_script

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]


def test_transformer_options_of_chained_calls(tmp_path: Path) -> None:
    untested = "chained calls of its models were not compared"
    found = run_script("compare_chained.py", tmp_path, untested=untested)
    blocks = {"wan": 3, "hunyuan_video": 2 + 3}
    assert found.keys() == blocks.keys()
    for name, ways in found.items():
        alone = ways["alone"]
        assert len(alone) == blocks[name] and all("block_index" in options for options in alone)
        assert len({json.dumps(options) for options in alone}) == blocks[name], "nothing tells the blocks apart"
        for way in ("plain", "compiled"):
            assert ways[way] == alone, (name, way)
            assert ways[f"{way}: sparse"] == 0
            assert ways[f"{way}, timed"] and all(options == alone[0] for options in ways[f"{way}, timed"]), (name, way)
            assert ways[f"{way}, timed: sparse"] == blocks[name]
