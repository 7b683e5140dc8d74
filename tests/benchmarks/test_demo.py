"""The demo: what it writes, what it says, and whose files it writes over."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from sparse_vdit.plans.plan.files import load_plan

from benchmarks.report import choose_scene, demo

SIZE = demo.Size((5, 6, 7), (32, 16), 7, 0.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo of a tiny video."""
    folder = tmp_path_factory.mktemp("demo")
    demo.run(SIZE, folder, large=False)
    return folder


def test_it_writes_its_results_and_what_it_says_is_what_ran(made: Path) -> None:
    assert {file.name for file in made.iterdir()} == {*demo.RESULTS}
    result = json.loads((made / "demo_result.json").read_text())
    plan = load_plan(made / "plan.json")
    assert result["calls"] == SIZE.steps * plan.layers
    assert 0 < result["sparse_calls"] <= (SIZE.steps - result["dense_steps"]) * plan.layers
    assert result["density"] == pytest.approx(0.5, abs=0.05)
    sparse_steps = SIZE.steps - result["dense_steps"]
    assert result["work_saved"] == pytest.approx((1 - result["density"]) * sparse_steps / SIZE.steps)
    assert 5 < result["psnr"] < 100


def test_the_page_is_whole_in_one_file(made: Path) -> None:
    page = (made / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r'src="data:image/(webp|png);base64,[A-Za-z0-9+/=]{500,}"', page)) == 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    result = json.loads((made / "demo_result.json").read_text())
    assert "<code>python3 dev.py demo --large</code>" in page
    assert result["scene"] in page and f"{result['psnr']:.1f} dB" in page


@pytest.mark.parametrize(
    ("large", "sparse", "said"),
    [
        (False, 2.0, "1.50 times as fast on this CPU. A longer clip gains time: `python3 dev.py demo --large`."),
        (True, 2.0, "1.50 times as fast on this CPU."),
        (False, 3.1, "not faster, as expected of so short a clip. A longer clip gains time: `python3 dev.py demo "
                     "--large`."),
        (True, 3.1, "not faster on this CPU."),
    ],
)
def test_five_lines_say_what_was_found(made: Path, large: bool, sparse: float, said: str) -> None:
    result = json.loads((made / "demo_result.json").read_text())
    lines = demo.lines_of(result | {"dense_step_seconds": 3.0, "sparse_step_seconds": sparse}, made, large)
    assert [line.split(":")[0] for line in lines] == ["Distance", "Work", "Calls", "Time", "Files"]
    assert lines[3].endswith(said)


def test_without_a_terminal_a_stage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    stage = demo.Stage("Thinking", 3)
    for _ in range(3):
        stage.step()
    assert re.fullmatch(r"Thinking: \d+\.\d s\n", capsys.readouterr().out)


def test_files_of_others_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("mine")
    with pytest.raises(SystemExit, match=r"has a plan\.json that is not of this demo"):
        demo.prepare_folder(tmp_path)
    assert (tmp_path / "plan.json").read_text() == "mine"


def test_the_scene_is_one_that_was_chosen_from() -> None:
    assert demo.SCENE_SEED in range(choose_scene.FIRST_SEED, choose_scene.FIRST_SEED + choose_scene.SEEDS)
    assert choose_scene.moves(choose_scene.scene_of(demo.SCENE_SEED))


def test_a_video_of_the_words_is_more_like_them_than_another() -> None:
    scenes = [choose_scene.scene_of(seed) for seed in (60, 61)]
    videos = [choose_scene.true_videos([scene], 5, 24, 28, 1, seed=1)[0] for scene in scenes]
    own, other = (choose_scene.likeness(video, scenes[0]) for video in videos)
    assert own > other
