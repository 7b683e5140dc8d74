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

sys.path.append(str(ROOT / "benchmarks"))
import compositions
import figures
import small_wan_runs
from pictures import plot


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


def test_help_of_the_workflows_is_the_scripts_own() -> None:
    script = ROOT / "benchmarks" / "compositions.py"
    said = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True).stdout
    assert "ARGUMENTS OF PYTEST" in said


def test_loose_points_are_not_joined(tmp_path: Path) -> None:
    """Ink in the middle between two points, of which nothing else is near."""
    ink = {}
    for loose in ((), ("some",)):
        file = tmp_path / f"{len(loose)}.png"
        plot({"some": [(0.0, 0.0), (1.0, 1.0)]}, ("x", "y"), file, loose=loose)
        picture = np.asarray(Image.open(file).convert("RGB"))
        ink[loose] = (picture[100:240, 200:480] != 255).any()
    assert ink == {(): True, ("some",): False}
