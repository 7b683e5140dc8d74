"""The benchmark of whole models runs from end to end on toys of ComfyUI's own classes, its kernels interpreted."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from comfyui.installation import comfyui_path, comfyui_python
from load_pack import ROOT
from PIL import Image
from tolerances import SAMPLED_DENSE

from benchmarks.models import end_to_end_tables
from benchmarks.models.whole_models import TINY

pytestmark = pytest.mark.comfyui

LAYERS = {"tiny_wan": 2, "tiny_hunyuan": 3, "tiny_hunyuan15": 2, "tiny_cogvideox15": 2}
TOKENS = {"tiny_wan": 1105, "tiny_hunyuan": 11 + 1105, "tiny_hunyuan15": 11 + 1105, "tiny_cogvideox15": 21 + 1105}
METHODS = ("sdpa_flash", "no_attention", "comfyui", "core_sol_1.3", "ours_bf16", "ours_sampler")
TIMED = {"sdpa_flash", "no_attention", "comfyui", "ours_bf16"}


def started(folder: Path, *options: str, interpreted: bool = False) -> subprocess.Popen:
    """The script in ComfyUI's Python; skips where there is no ComfyUI."""
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; the benchmark of whole models was not tried")
    command = [comfyui_python(comfyui), "-m", "benchmarks.models.end_to_end", "--tiny", "--device", "cpu"]
    command += ["--folder", str(folder), *options]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui), "OPENBLAS_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    environment |= {"TRITON_INTERPRET": "1"} if interpreted else {}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment)


def run(folder: Path, *options: str, interpreted: bool = False) -> dict:
    """Rows of the newest result after the script ran, by model, method and plan."""
    before = {*folder.glob("*.json")}
    process = started(folder, *options, interpreted=interpreted)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-2000:]
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
        assert row["tokens"] == TOKENS[model] and row["peak_bytes"] is None
        assert (row["first_call_seconds"] is None) == (name != "ours_bf16")  # others are warmed up on one layer
        if name != "comfyui":  # the pack says so of a whole run of two forwards
            assert row["calls"] == LAYERS[model] * (2 if name == "ours_bf16" else 1)
    ours = timed["ours_bf16"]
    assert ours["dense_calls"] == 0 and 0.25 < ours["density"] < 0.5 and "backend torch" in ours["report"]


@pytest.mark.slow
def test_kernels_in_8_bits_run_in_the_model(tmp_path: Path) -> None:
    options = ("--models", "tiny_wan", "--plans", "0.35", "--methods", "sdpa_flash", "ours_bf16", "ours_int8")
    rows = by_method(run(tmp_path, *options, interpreted=True), "tiny_wan")
    exact, in_8_bits = rows["ours_bf16", "0.35"], rows["ours_int8", "0.35"]
    assert exact["kernels"] == ["exact"] and in_8_bits["kernels"] == ["int8"]
    assert "backend triton" in in_8_bits["report"] and in_8_bits["calls"] == 2 * LAYERS["tiny_wan"]
    assert in_8_bits["rel_l2"] == pytest.approx(exact["rel_l2"], rel=0.1)
    assert exact["rel_l2"] > 1e-2  # sparse, by far more than bf16 rounds


@pytest.mark.slow
def test_later_plans_of_a_method_have_their_lists_made_ahead(tmp_path: Path) -> None:
    options = ("--models", "tiny_wan", "--plans", "0.35", "0.6", "--methods", "sdpa_flash", "ours_bf16")
    rows = by_method(run(tmp_path, *options), "tiny_wan")
    first, later = rows["ours_bf16", "0.35"], rows["ours_bf16", "0.6"]
    assert first["first_call_seconds"] > 0 and later["first_call_seconds"] is None
    assert later["calls"] == LAYERS["tiny_wan"] and later["dense_calls"] == 0
    assert 0 < later["rel_l2"] < first["rel_l2"]  # denser, and of the same noise


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    options = ("--models", "tiny_wan", "tiny_cogvideox15", "--plans", "0.35", "--methods", *METHODS)
    process = started(tmp_path, *options)
    for line in process.stdout:  # printed before it is written, so the row before is there
        if "comfyui" in line:
            break
    process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode < 0, errors[-2000:]
    (file,) = tmp_path.glob("*.json")
    kept = json.loads(file.read_text())["rows"]
    assert [row["method"] for row in kept][:2] == ["sdpa_flash", "no_attention"] and len(kept) < 2 * len(METHODS)
    result = run(tmp_path, *options, "--continue", str(file))
    assert len(result["rows"]) == 2 * len(METHODS)
    for old, new in zip(kept, result["rows"], strict=False):
        assert old["method"] == new["method"] and old.get("seconds_per_forward") == new.get("seconds_per_forward")
    assert by_method(result, "tiny_wan")["ours_bf16", "0.35"]["rel_l2"] > 1e-3  # the reference was measured anew


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
