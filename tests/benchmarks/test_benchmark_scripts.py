"""What is wrong with the arguments or files of a script ends in one line that names it, before any work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from load_pack import ROOT
from PIL import Image

from benchmarks.models import compositions
from benchmarks.quality import small_wan_runs
from benchmarks.report import figures, result_files, results
from benchmarks.report.pictures import plot


def last_line(capsys: pytest.CaptureFixture) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("content", [None, "", "{", json.dumps({"format": 3})])
def test_a_plan_that_cannot_be_drawn_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, content: str | None
) -> None:
    file = tmp_path / "mine.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(sys, "argv", ["figures.py", "plan", "--plan", str(file)])
    with pytest.raises(SystemExit, match="2"):
        figures.main()
    assert f"--plan {file} cannot be drawn" in last_line(capsys)


@pytest.mark.parametrize("content", [None, "version https"])
def test_weights_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "weights.safetensors"
    if content is not None:
        file.write_text(content)
    read = small_wan_runs.read_model
    monkeypatch.setattr(small_wan_runs, "read_model", lambda device: read(file, device))
    with pytest.raises(SystemExit, match=str(file)):
        small_wan_runs.load_model()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["-k", "no such"], "no test to run with -k 'no such'"), (["--nosuch"], "no test to run with --nosuch")],
)
def test_workflows_that_pytest_does_not_find_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], says: str
) -> None:
    monkeypatch.setattr(compositions, "comfyui_path", lambda: ROOT)
    monkeypatch.setattr(compositions, "records", lambda test: test.name == "test_comfyui_chained.py")
    monkeypatch.setattr(sys, "argv", ["compositions.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        compositions.main()
    assert says in last_line(capsys)


def test_workflows_without_a_comfyui_say_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(compositions, "comfyui_path", lambda: None)
    monkeypatch.setattr(sys, "argv", ["compositions.py"])
    with pytest.raises(SystemExit, match="2"):
        compositions.main()
    assert "COMFYUI_PATH" in last_line(capsys)


SCRIPTS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("benchmarks", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "__main__" in path.read_text("utf-8") and path.stem != "aot"
]


HELP = """
import contextlib, io, json, runpy, sys, warnings

warnings.simplefilter("ignore")  # of modules that another script has imported
said = {}
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
            status = "no end"
        except SystemExit as end:
            status = end.code or 0
    said[script] = [status, out.getvalue()]
print(json.dumps(said))
"""


def test_asking_for_help_does_nothing_else() -> None:
    """In one process for all scripts, as each would import torch again."""
    before = changes()
    command = [sys.executable, "-c", HELP, *SCRIPTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=300)
    said = json.loads(done.stdout)
    assert [*said] == SCRIPTS
    for script, (status, text) in said.items():
        assert (status, text[:7]) == (0, "usage: "), script
    assert "ARGUMENTS OF PYTEST" in said["benchmarks.models.compositions"][1]
    assert changes() == before


def changes() -> dict[Path, int]:
    """When each file that a script may write was written last."""
    files = [*ROOT.glob("*.md"), *(ROOT / "benchmarks").rglob("*.md"), *(ROOT / "plans").rglob("*.json")]
    for folder in ("web/docs", "docs", "kernels/compiled", "benchmarks/results"):
        files += (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}


def test_no_table_is_made_of_results_that_are_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((results, "FOLDER"), (results, "ROOT"), (result_files, "RESULTS"), (result_files, "ROOT")):
        monkeypatch.setattr(module, name, tmp_path)
    monkeypatch.setattr(results, "script_name", lambda: "some.py")
    results.save_results("some", [{"a": 1}], unfinished=True)
    assert result_files.newest_if_any("some") is None
    with pytest.raises(SystemExit, match="no results of some"):
        result_files.newest("some")
    results.save_results("some", [{"a": 1}, {"a": 2}])
    assert [row["a"] for row in result_files.newest("some")["rows"]] == [1, 2]
    results.save_results("some", [{"a": 7}], unfinished=True)  # the next run, which takes nothing away
    assert [row["a"] for row in result_files.newest("some")["rows"]] == [1, 2]
    results.save_results("some", [{"a": 7}, {"a": 8}])
    assert [row["a"] for row in result_files.newest("some")["rows"]] == [7, 8]
    assert len([*tmp_path.iterdir()]) == 1


def test_loose_points_are_not_joined(tmp_path: Path) -> None:
    """Ink in the middle between two points, of which nothing else is near."""
    ink = {}
    for loose in ((), ("some",)):
        file = tmp_path / f"{len(loose)}.png"
        plot({"some": [(0.0, 0.0), (1.0, 1.0)]}, ("x", "y"), file, loose=loose)
        picture = np.asarray(Image.open(file).convert("RGB"))
        ink[loose] = (picture[100:240, 200:480] != 255).any()
    assert ink == {(): True, ("some",): False}
