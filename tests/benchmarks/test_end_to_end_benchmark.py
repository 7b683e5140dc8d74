"""The benchmark of whole models, without ComfyUI: what follows from measured forwards, estimates, tables, files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from load_pack import ROOT
from PIL import Image

from benchmarks.models import end_to_end, end_to_end_tables, whole_costs, whole_methods
from benchmarks.models.end_to_end_figure import draw
from benchmarks.models.projections import compare
from benchmarks.models.whole_models import MODELS, TINY
from benchmarks.report import result_files, results


def row(method: str, seconds: float, model: str = "wan14b_480p", **more: object) -> dict:
    return {"model": model, "method": method, "seconds_per_forward": seconds, "peak_bytes": 1000, **more}


def test_generations_are_sums_of_forwards() -> None:
    rows = [
        row("sdpa_flash", 5.0), row("sdpa_cudnn", 4.0), row("no_attention", 1.0), row("kitchen_int8", 3.0),
        row("ours_bf16", 2.0, peak_bytes=1030), row("comfyui_compiled", 0.5), {"model": "wan14b_480p", "method": "sage",
        "skipped": "not here"},
    ]  # fmt: skip
    compare(rows, MODELS)
    found = {row["method"]: row for row in rows}
    ours = found["ours_bf16"]
    assert ours["attention_share"] == 0.5 and ours["speedup"] == 2.0 and ours["extra_peak_fraction"] == 0.03
    # 50 steps of two forwards, 10 of them by cuDNN or in 8 bits; 4 steps of one, the first by cuDNN
    assert ours["many_seconds"] == 2 * (10 * 4 + 40 * 2) and ours["many_speedup"] == round(200 / 120, 4)
    assert ours["many_8_bits_seconds"] == 2 * (10 * 3 + 40 * 2) and ours["few_seconds"] == 4 + 3 * 2
    assert found["sdpa_flash"]["many_seconds"] == 500 and found["sdpa_flash"]["few_speedup"] == 0.8
    assert found["kitchen_int8"]["many_seconds"] == 300
    assert "speedup" not in found["no_attention"] and "speedup" not in found["sage"]


def test_without_a_warm_up_all_steps_are_sparse() -> None:
    rows = [row("sdpa_flash", 4.0, "cogvideox15"), row("ours_bf16", 1.0, "cogvideox15")]
    compare(rows, MODELS)
    assert rows[1]["many_speedup"] == 4.0 and rows[1]["many_seconds"] == 2 * 50
    assert "attention_share" not in rows[1] and "many_8_bits_seconds" not in rows[1]


def test_a_plan_that_begins_late_has_more_dense_steps_than_the_warm_up() -> None:
    rows = [row("sdpa_flash", 4.0), row("ours_bf16", 2.0, dense_part=0.3), row("ours_int8", 2.0, dense_part=0.1)]
    compare(rows, MODELS)
    assert [one["many_seconds"] for one in rows[1:]] == [2 * (15 * 4 + 35 * 2), 2 * (10 * 4 + 40 * 2)]
    rows[1]["dense_part_few"] = 0.5
    compare(rows, MODELS)
    assert [one["few_seconds"] for one in rows[1:]] == [2 * 4 + 2 * 2, 4 + 3 * 2]


def test_models_are_compared_with_their_own_rows_alone() -> None:
    rows = [row("sdpa_flash", 4.0), row("sdpa_flash", 2.0, "hunyuan_720p"), row("ours_int8", 1.0, "hunyuan_720p")]
    compare(rows, MODELS)
    assert rows[2]["speedup"] == 2.0 and rows[2]["many_seconds"] == 1 * (10 * 2 + 40 * 1)


def test_what_a_call_takes_is_estimated() -> None:
    flops = {name: whole_costs.forward_flops(model) for name, model in MODELS.items()}
    # 14 billion weights of which those for text are seen by few tokens; 4 x 75600^2 x 5120 x 40 of attention
    assert flops["wan14b_720p"][0] == pytest.approx(2 * 12e9 * 75600, rel=0.01)
    assert flops["wan14b_720p"][1] == pytest.approx(4.68e15, rel=0.01)
    assert {name: whole_costs.tokens_of(model) for name, model in MODELS.items()} == {
        "wan1_3b_480p": 32760, "wan14b_480p": 32760, "cogvideox15": 11 * 48 * 85 + 226, "wan1_3b_720p": 75600,
        "wan14b_720p": 75600, "hunyuan15_720p": 31 * 45 * 80 + 256, "hunyuan_720p": 33 * 45 * 80 + 256,
    }  # fmt: skip
    model = MODELS["wan14b_720p"]
    first, later = (whole_costs.method_seconds(model, "ours_bf16", "0.25", again) for again in (False, True))
    assert first == 2 * later < 2 * whole_costs.method_seconds(model, "sdpa_flash", None, False)
    two = [("sdpa_flash", None), ("sage", None)]
    told = whole_costs.estimate({"wan14b_720p": (model, two), "tiny_wan": (model, [])})
    assert "2 rows" in told and "tiny_wan" not in told and "in one call" in told


def test_a_method_needs_as_many_dense_forwards_as_it_may_take() -> None:
    needed = {name: end_to_end.most_seconds(method, 10.0) for name, method in whole_methods.METHODS.items()}
    assert needed["kitchen_int8"] == 10 and needed["ours_int8"] == 20 and needed["ours_sampler"] == 50
    assert needed["ours_bf16_compiled"] == 20 + whole_costs.COMPILING


def test_plans_are_measured_where_they_belong() -> None:
    found = end_to_end.jobs(MODELS["wan14b_480p"], list(whole_methods.METHODS), ["shipped", "0.2"])
    assert found[0] == (whole_methods.REFERENCE, None)
    assert [plan for name, plan in found if name == "ours_int8"] == ["shipped", "0.2"]
    assert ("ours_sampler", "0.25") in found and ("ours_bf16_compiled", "0.25") in found
    others = end_to_end.jobs(MODELS["hunyuan_720p"], list(whole_methods.METHODS), [])
    assert not any(name.endswith("_compiled") for name, _ in others)


ROWS = [
    row("sdpa_flash", 4.0, rel_l2=0.0, first_call_seconds=5.0), row("no_attention", 1.0),
    row("ours_bf16", 2.0, plan="0.25", density=0.2512, rel_l2=0.0123, first_call_seconds=7.5),
    {"model": "wan14b_480p", "method": "sage", "skipped": "no sage"},
    {"model": "wan14b_480p", "method": "ours_sampler", "steps": 4, "sampler_seconds": 9.0, "report": "all sparse"},
]  # fmt: skip


def result(rows: list[dict]) -> dict:
    compare(rows, MODELS | TINY)
    return {"rows": rows, "command": "python x.py", "device": "some GPU", "date": "2026-01-01"}


def test_tables_and_picture_of_rows(tmp_path: Path) -> None:
    table = end_to_end_tables.forwards_table(result([dict(row) for row in ROWS]))
    ours = next(line for line in table.splitlines() if "ours_bf16" in line)
    assert ours == (
        "| wan14b_480p | ours_bf16 | 0.25 | 0.25 | 2.000 | 50% | 2.00 | 240 (1.67x) | - | 10.0 (1.60x) | +0.0% | "
        "1.2e-02 | 7.5 |"
    )
    assert "sage (wan14b_480p): no sage" in table and "some GPU" in table and "mean nothing" not in table
    assert "| 4 | 9.0 | all sparse |" in end_to_end_tables.sampler_table(result([dict(row) for row in ROWS]))
    draw(result([dict(row) for row in ROWS])["rows"], tmp_path / "bars.png")
    assert Image.open(tmp_path / "bars.png").height > 60


def test_tables_of_toys_say_that_they_are_toys() -> None:
    toys = [{**row, "model": "tiny_wan"} for row in ROWS]
    for table in (end_to_end_tables.forwards_table, end_to_end_tables.sampler_table):
        assert table(result(toys)).startswith(end_to_end_tables.TOYS)
        assert table(None) == end_to_end_tables.NOT_YET


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "cpu"], "--device cpu goes with --tiny alone"),
        (["--device", "cpu", "--tiny", "--models", "wan14b_480p"], "--models wan14b_480p goes without --tiny"),
        (["--device", "cpu", "--tiny", "--plans", "1.5"], "--plans 1.5 is neither shipped nor a density"),
        (["--device", "cpu", "--tiny", "--plans", "best"], "--plans best is neither shipped nor a density"),
        (["--device", "cpu", "--tiny", "--continue", "nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_arguments_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, options: list[str], says: str
) -> None:
    monkeypatch.setattr(end_to_end, "comfyui_path", lambda: ROOT)
    monkeypatch.setattr(sys, "argv", ["end_to_end.py", *options])
    with pytest.raises(SystemExit, match="2"):
        end_to_end.arguments()
    assert says in capsys.readouterr().err.strip().splitlines()[-1]


def test_rows_for_which_no_time_was_left_are_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "end_to_end-x.json"
    late = {"model": "a", "method": "sage", "skipped": result_files.NO_TIME}
    file.write_text(json.dumps({"benchmark": "end_to_end", "rows": [*ROWS, late]}))
    assert result_files.kept_rows(file, "end_to_end") == ROWS and result_files.kept_rows(None, "end_to_end") == []
    with pytest.raises(ValueError, match="is of end_to_end, not of calibrated_heads"):
        result_files.kept_rows(file, "calibrated_heads")


def test_results_of_several_calls_make_one_table() -> None:
    def of(number: int, device: str, *models: str) -> dict:
        rows = [{"model": model, "number": number} for model in models]
        return {"device": device, "command": f"run {number}", "date": "today", "rows": rows}

    late = {"model": "a", "number": 3, "skipped": result_files.NO_TIME}
    found = [of(0, "old", "a", "z"), of(1, "new", "a", "b"), of(2, "new", "b", "c"), of(3, "new", "d")]
    found[3]["rows"].append(late)
    whole = result_files.latest_of_each(found, "model")
    assert [(row["model"], row["number"]) for row in whole["rows"]] == [("a", 1), ("b", 2), ("c", 2), ("d", 3)]
    assert all(f"run {number}" in result_files.made_by(whole) for number in (1, 2, 3))
    assert "run 0" not in result_files.made_by(whole)
    nothing = {**of(4, "new"), "rows": [late]}
    assert result_files.latest_of_each([nothing], "model") is nothing and not result_files.latest_of_each([], "model")


def test_a_run_that_is_stopped_while_it_writes_leaves_the_rows_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    file = tmp_path / results.save_results("end_to_end", [{"model": "a"}])
    monkeypatch.setattr(Path, "replace", lambda *paths: sys.exit("stopped"))
    with pytest.raises(SystemExit):
        results.save_results("end_to_end", [{"model": "b"}])
    assert result_files.kept_rows(file, "end_to_end") == [{"model": "a"}]


def test_the_commit_of_a_copy_is_told_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMIT", "0123abcd")
    assert results.commit() == "0123abcd"
    monkeypatch.delenv("COMMIT")
    monkeypatch.setattr(results.shutil, "which", lambda name: None)
    assert results.commit() == ""
