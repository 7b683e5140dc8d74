"""The benchmark of whole models runs from end to end on toys of ComfyUI's own classes, its kernels interpreted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui.installation import comfyui_path, comfyui_python
from load_pack import ROOT
from PIL import Image
from tolerances import SAMPLED_DENSE

sys.path.append(str(ROOT / "benchmarks"))
import end_to_end_tables
from whole_models import TINY

pytestmark = pytest.mark.comfyui

LAYERS = {"tiny_wan": 2, "tiny_hunyuan": 3, "tiny_hunyuan15": 2, "tiny_cogvideox15": 2}
TOKENS = {"tiny_wan": 1105, "tiny_hunyuan": 11 + 1105, "tiny_hunyuan15": 11 + 1105, "tiny_cogvideox15": 21 + 1105}
METHODS = ("sdpa_flash", "no_attention", "comfyui", "core_sol_1.3", "ours_bf16", "ours_sampler")
TIMED = {"sdpa_flash", "no_attention", "comfyui", "ours_bf16"}


def run(folder: Path, *options: str, interpreted: bool = False) -> dict:
    """Rows of the newest result after the script ran with ComfyUI's Python, by model, method and plan; skips where
    there is no ComfyUI."""
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; the benchmark of whole models was not tried")
    script, before = ROOT / "benchmarks" / "end_to_end.py", {*folder.glob("*.json")}
    command = [comfyui_python(comfyui), str(script), "--tiny", "--device", "cpu", "--folder", str(folder), *options]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui), "OPENBLAS_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    environment |= {"TRITON_INTERPRET": "1"} if interpreted else {}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = {*folder.glob("*.json")} - before
    return json.loads(file.read_text())


def by_method(result: dict, model: str) -> dict[tuple[str, str | None], dict]:
    """Rows of one model."""
    return {(row["method"], row["plan"]): row for row in result["rows"] if row["model"] == model}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Two runs, the second of which goes on where the first one stopped: folder and the last result."""
    folder = tmp_path_factory.mktemp("end_to_end")
    kept = run(folder, "--models", *LAYERS, "--methods", *METHODS[:2])
    (earlier,) = folder.glob("*.json")
    result = run(folder, "--plans", "0.35", "shipped", "--methods", *METHODS, "--continue", str(earlier))
    for model in TINY:
        known, now = by_method(kept, model), by_method(result, model)
        assert len(known) == 2
        assert all(now[name]["seconds_per_forward"] == row["seconds_per_forward"] for name, row in known.items())
    return folder, result


@pytest.mark.parametrize("model", TINY)
def test_every_method_computes_the_model(found: tuple[Path, dict], model: str) -> None:
    timed = {name: row for (name, _), row in by_method(found[1], model).items() if row.get("seconds_per_forward")}
    assert {*timed} == TIMED
    assert timed["sdpa_flash"]["rel_l2"] == 0 and timed["comfyui"]["rel_l2"] < SAMPLED_DENSE
    assert timed["no_attention"]["rel_l2"] > 3 * timed["ours_bf16"]["rel_l2"] > 1e-3
    for name, row in timed.items():
        assert row["tokens"] == TOKENS[model] and row["first_call_seconds"] > 0 and row["peak_bytes"] is None
        if name != "comfyui":
            assert row["calls"] == LAYERS[model]
    ours = timed["ours_bf16"]
    assert ours["dense_calls"] == 0 and 0.25 < ours["density"] < 0.5 and "backend torch" in ours["report"]


def test_kernels_in_8_bits_run_in_the_model(tmp_path: Path) -> None:
    options = ("--models", "tiny_wan", "--plans", "0.35", "--methods", "sdpa_flash", "ours_bf16", "ours_int8")
    rows = by_method(run(tmp_path, *options, interpreted=True), "tiny_wan")
    exact, in_8_bits = rows["ours_bf16", "0.35"], rows["ours_int8", "0.35"]
    assert exact["kernels"] == ["exact"] and in_8_bits["kernels"] == ["int8"]
    assert "backend triton" in in_8_bits["report"] and in_8_bits["calls"] == LAYERS["tiny_wan"]
    assert in_8_bits["rel_l2"] == pytest.approx(exact["rel_l2"], rel=0.1)
    assert exact["rel_l2"] > 1e-2  # sparse, by far more than bf16 rounds


@pytest.mark.parametrize("model", TINY)
def test_what_cannot_be_had_says_why(found: tuple[Path, dict], model: str) -> None:
    rows = by_method(found[1], model)
    assert "ships" in rows["ours_bf16", "shipped"]["skipped"]
    assert ("head_dim" if "cog" in model else "sol_attn") in rows["core_sol_1.3", None]["skipped"]


@pytest.mark.parametrize("model", TINY)
def test_a_whole_sampler_run_is_reported(found: tuple[Path, dict], model: str) -> None:
    row = by_method(found[1], model)["ours_sampler", "0.25"]
    assert row["steps"] == 4 and row["sampler_seconds"] > 0
    assert row["calls"] + row["dense_calls"] == 4 * LAYERS[model]


def test_picture_and_tables_come_from_the_result(found: tuple[Path, dict]) -> None:
    folder, result = found
    assert max(Image.open(file).height for file in folder.glob("*.png")) > 300
    table = end_to_end_tables.forwards_table(result)
    assert table.startswith(end_to_end_tables.TOYS) and table.count("\n| tiny_") == len(TIMED) * len(TINY)
    assert end_to_end_tables.sampler_table(result).count("\n| tiny_") == len(TINY)
