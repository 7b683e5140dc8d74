"""Calibrated plans from run to run: found again by the model's numbers, growing with prompts, and never lost."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from calibrations import ALL, COPY, GRID, KNOWN, LAYERS, NONE, calibration, fingerprint_like, first_run, generate, kept
from sample_plans import listing
from sparse_vdit.nodes.host.calibration.calibrated_model import MOST_PROMPTS, CalibratedModel
from sparse_vdit.nodes.host.calibration.calibrated_plan import noise_levels, noted
from sparse_vdit.nodes.host.calibration.kept_plans import plan_path
from sparse_vdit.nodes.host.plan_choice.fingerprint import Fingerprint
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.plans.plan.files import load_plan, save_plan
from sparse_vdit.plans.profile.profile_files import load_profile, save_profile

OTHER = fingerprint_like(1.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Calibrated plans after the first run."""
    for name, content in first_run().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def files(folder: Path) -> tuple[Path, Path]:
    """The profile and the plan."""
    (profile,), (plan,) = folder.glob("*.safetensors"), folder.glob("*.json")
    return profile, plan


def second(folder: Path, **options: object) -> Run:
    run = calibration(folder, **options)
    generate(run)
    return run


def test_the_second_run_finds_the_plan_and_changes_nothing(folder: Path) -> None:
    before = listing(folder)
    run = calibration(folder)
    assert run.engine.measuring is None
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert listing(folder) == before
    date = load_plan(files(folder)[1]).provenance.date
    line = run.report()
    assert f"plan user/calibrated/{files(folder)[1].stem} (measured while sampling), " in line
    assert f"no plan connected and none shipped: calibrated plan of {date}, 1 prompt" in line
    assert " calls in " not in line


def test_prompts_add_up_until_there_are_enough(folder: Path) -> None:
    counts = []
    for prompt in ("a", "b", "b", "c", "d", "e"):
        run = calibration(folder, prompt=f"prompt {prompt}")
        measured = run.engine.measuring is not None
        assert generate(run) == [NONE, NONE, ALL, ALL]
        profile, plan = (load(path) for load, path in zip((load_profile, load_plan), files(folder), strict=True))
        assert plan.provenance.prompts == profile.header.prompts
        assert ("for the next run kept as" in run.report()) == measured
        counts.append((measured, len(profile.header.prompts), profile.samples[0].tolist()))
    assert [(measured, prompts) for measured, prompts, _ in counts] == [
        *((False, 1), (True, 2), (False, 2), (True, 3), (True, MOST_PROMPTS), (False, MOST_PROMPTS)),
    ]
    assert counts[-1][2] == [4 * samples for samples in counts[0][2]]


def test_what_was_measured_is_noted_of_all_runs(folder: Path) -> None:
    generate(calibration(folder, prompt="prompt b"), (0.99, 0.92, 0.3))
    header = load_profile(files(folder)[0]).header
    assert noise_levels(header) == (1.0, 0.3)
    assert header.parameters["rows"] == 32  # still a number: sampling errors are told by it
    assert load_plan(files(folder)[1]).provenance.parameters["sigma_low"] == 0.3


def test_another_preset_is_searched_without_measuring_and_kept_beside(folder: Path) -> None:
    fast = files(folder)[1]
    run = calibration(folder, preset="faithful")
    assert run.engine.measuring is None
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert {path.name for path in folder.glob("*.json")} == {fast.name, fast.name.replace(".fast.", ".faithful.")}
    plans = [load_plan(path) for path in sorted(folder.glob("*.json"))]
    assert [plan.provenance.parameters["error"] for plan in plans] == [0.03, 0.1]


def test_copies_of_the_model_share_its_plan_and_others_do_not(folder: Path) -> None:
    assert second(folder, fingerprint=COPY, prompt="prompt b").engine.measuring is not None
    profile, _ = files(folder)  # still one of each
    header = load_profile(profile).header
    assert len(header.prompts) == 2
    assert header.parameters["fingerprint"] == str(KNOWN)  # not of the coarser copy, which more models fit
    assert kept(folder, OTHER).find(GRID) is None
    second(folder, fingerprint=OTHER)
    assert len(list(folder.glob("*.safetensors"))) == 2
    for known in (KNOWN, OTHER):
        assert second(folder, fingerprint=known).engine.measuring is None


def test_a_model_without_a_fingerprint_runs_its_plan_once(folder: Path) -> None:
    before = listing(folder)
    run = calibration(folder, fingerprint=None)
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert "not kept: nothing tells this model from others" in run.report()
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("grid", "found"), [((5, 8, 9), True), ((9, 5, 16), True), ((11, 8, 9), False), ((5, 8, 4), False), (None, True)]
)
def test_sizes_that_are_not_far_share_a_plan(folder: Path, grid: tuple | None, found: bool) -> None:
    model = CalibratedModel(kept(folder), "fast", grid)
    assert (model.plan is not None) == found
    assert model.wants("prompt b") == (grid == GRID or not found)  # only the same size is added to


def test_the_nearest_size_is_taken(folder: Path) -> None:
    profile, _ = files(folder)
    near = load_profile(profile)
    near = replace(near, header=replace(near.header, grid=(5, 8, 12)))
    save_profile(near, profile.with_name(profile.name.replace("5x8x9", "5x8x12")))
    assert [kept(folder).find((5, 8, width)).grid[2] for width in (9, 10, 11, 24)] == [9, 9, 12, 12]


BROKEN = {
    "profile": lambda profile, plan: profile.write_bytes(profile.read_bytes()[:1000]),
    "plan": lambda profile, plan: plan.write_text(plan.read_text()[:-99]),
    "other plan": lambda profile, plan: save_plan(replace(load_plan(plan), heads=3, family="ltx"), plan, True),
    "no profile of ours": lambda profile, plan: save_profile(foreign(load_profile(profile)), profile, True),
    "another architecture": lambda profile, plan: save_profile(of_family(load_profile(profile), "ltx"), profile, True),
    "another model's plan": lambda profile, plan: save_plan(of_model(load_plan(plan), OTHER), plan, True),
}


def foreign(profile: object) -> object:
    return replace(profile, header=replace(profile.header, parameters={"rows": 32}))


def of_family(profile: object, family: str) -> object:
    return replace(profile, header=replace(profile.header, family=family))


def of_model(plan: object, fingerprint: Fingerprint) -> object:
    parameters = {**plan.provenance.parameters, "fingerprint": str(fingerprint)}
    return replace(plan, provenance=replace(plan.provenance, parameters=parameters))


@pytest.mark.parametrize("broken", BROKEN)
def test_what_cannot_be_used_is_put_aside_and_never_deleted(folder: Path, broken: str) -> None:
    profile, plan = files(folder)
    BROKEN[broken](profile, plan)
    aside = plan if "plan" in broken else profile
    content = aside.read_bytes()
    (folder / f"{aside.name}.aside").write_text("an earlier one")
    run = calibration(folder)
    assert (run.engine.measuring is None) == ("plan" in broken)  # the profile alone gives the plan again
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert f"{aside.name} cannot be used and was put aside as {aside.name}.aside1: " in run.report()
    assert (folder / f"{aside.name}.aside1").read_bytes() == content
    assert (folder / f"{aside.name}.aside").read_text() == "an earlier one"
    assert second(folder).engine.measuring is None  # and whole again
    assert files(folder) == (profile, plan)


def test_a_plan_of_the_users_own_in_the_way_is_put_aside(folder: Path) -> None:
    """There is no profile beside it, so that nobody has looked at it before it would be overwritten."""
    profile, plan = files(folder)
    profile.unlink()
    own = of_model(load_plan(plan), KNOWN)
    own = replace(own, provenance=replace(own.provenance, parameters={}))
    save_plan(own, plan, overwrite=True)
    run = second(folder)
    assert "it was not made while sampling" in run.report()
    assert load_plan(folder / f"{plan.name}.aside") == own
    assert load_plan(plan).provenance.prompts == ("prompt a",)


def test_names_and_sizes_of_other_packs_are_left_alone(folder: Path) -> None:
    others = {"wan-notes.txt": b"mine", "ltx-3x3x128-x.safetensors": b"", "my plan.json": b"{}"}
    for name, content in others.items():
        (folder / name).write_bytes(content)
    second(folder)
    assert others.items() <= listing(folder).items()


def test_a_plan_of_fewer_prompts_than_the_profile_is_searched_again(folder: Path) -> None:
    """Another ComfyUI has added a prompt for another preset."""
    _, plan = files(folder)
    old = plan.read_bytes()
    second(folder, prompt="prompt b", preset="faithful")
    assert plan.read_bytes() == old
    second(folder)
    assert load_plan(plan).provenance.prompts == ("prompt a", "prompt b")


def test_two_runs_at_once_lose_nothing(tmp_path: Path) -> None:
    """Both began without a plan; the one that ends last adds to what the first has kept."""
    runs = [calibration(tmp_path, prompt=f"prompt {name}") for name in "ab"]
    for run in runs:
        assert generate(run) == [NONE, NONE, ALL, ALL]
    profile, plan = files(tmp_path)
    for known in (load_profile(profile).header, load_plan(plan).provenance):
        assert known.prompts == ("prompt a", "prompt b")
    assert "for the next run kept as" in runs[1].report()


def test_a_run_that_measures_nothing_leaves_what_another_adds_meanwhile(folder: Path) -> None:
    """It began before the other, searched a plan of its preset, and ends after it."""
    slow = calibration(folder, preset="faithful")
    second(folder, prompt="prompt b")
    generate(slow)
    (profile,) = folder.glob("*.safetensors")
    assert load_profile(profile).header.prompts == ("prompt a", "prompt b")
    assert load_plan(plan_path(profile.with_suffix(""), "faithful")).provenance.prompts == ("prompt a",)


def test_a_folder_that_cannot_be_written_costs_the_keeping_alone(tmp_path: Path) -> None:
    place = tmp_path / "calibrated"
    place.write_text("a file where the folder should be")
    run = calibration(place)
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert "not kept: " in run.report()
    assert place.read_text() == "a file where the folder should be"


def test_a_full_disk_leaves_what_was_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listing(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    run = second(folder, prompt="prompt b")
    assert "not kept: [Errno 28] No space left on device" in run.report()
    assert listing(folder) == before


@pytest.mark.parametrize("broken", ["profile", "plan"])
def test_what_cannot_be_put_aside_is_not_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    profile, plan = files(folder)
    path = plan if broken == "plan" else profile
    path.write_text("{}")
    before = listing(folder)

    def fixed(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", fixed)
    run = second(folder)
    assert run.report().count("could not be put aside") == 1
    assert f"not kept: {path.name} is in the way" in run.report()
    assert listing(folder) == before


def test_profiles_of_other_candidates_are_not_mixed(folder: Path) -> None:
    """As after an update of the pack: the old ones are put aside, once, and the heads are measured anew."""
    profile, _ = files(folder)
    old = load_profile(profile)
    candidates = (*old.header.candidates[:-1], old.header.candidates[2])
    save_profile(replace(old, header=replace(old.header, candidates=candidates)), profile, overwrite=True)
    content = profile.read_bytes()
    run = calibration(folder, prompt="prompt b")
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert "measured for other candidates than now: 7 and 7 of them, the first other one is number 6, " in run.report()
    assert len(run.report()) < 1500
    assert (folder / f"{profile.name}.aside").read_bytes() == content
    assert load_profile(profile).header.prompts == load_plan(files(folder)[1]).provenance.prompts == ("prompt b",)
    assert " calls in " not in second(folder, prompt="prompt b").report()


def test_odd_numbers_in_a_profile_are_no_noise_levels(folder: Path) -> None:
    found = load_profile(files(folder)[0])
    for high, low in (("1", 0.5), (True, 0.5), (-1.0, -2.0), (0.5, 1.0), (None, None)):
        assert noise_levels(noted(found, {"sigma_high": high, "sigma_low": low}).header) is None


def test_plans_lie_beside_their_profile(folder: Path) -> None:
    profile, plan = files(folder)
    assert profile.name == f"wan-{LAYERS}x3x128-{KNOWN.digest}-5x8x9.safetensors"
    assert plan == plan_path(profile.with_suffix(""), "fast") == profile.with_name(f"{profile.stem}.fast.json")
