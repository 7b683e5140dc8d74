"""Plans found while sampling, from run to run: found again by the model's numbers, completed once, and never lost."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from calibrations import ALL, COPY, GRID, KNOWN, LAYERS, NONE, calibration, fingerprint_like, first_run, generate, store
from runs import line
from sample_plans import listing
from sparse_vdit.nodes.host.library.fingerprint import Fingerprint
from sparse_vdit.nodes.host.library.found import GENERATIONS, noise_levels, noted
from sparse_vdit.nodes.host.library.found_plans import FoundPlans
from sparse_vdit.nodes.host.library.stored import plan_name
from sparse_vdit.nodes.host.policies import measure
from sparse_vdit.nodes.host.session.run import Run
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


def generations(folder: Path) -> int:
    """That have added to the profile."""
    return load_profile(files(folder)[0]).header.parameters.get(GENERATIONS, 1)


def second(folder: Path, **options: object) -> Run:
    run = calibration(folder, **options)
    generate(run)
    return run


@pytest.fixture
def complete(folder: Path) -> Path:
    """The same after the second run, which was the last to add."""
    second(folder)
    return folder


def test_a_later_run_finds_the_plan_and_changes_nothing(complete: Path) -> None:
    before = listing(complete)
    run = calibration(complete)
    assert run.policy.measurement is None
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert listing(complete) == before
    date = load_plan(files(complete)[1]).provenance.date
    said = line(run)
    assert f"plan user/calibrated/{files(complete)[1].stem} (measured while sampling), " in said
    assert said.endswith(f"no plan connected and none shipped: calibrated plan of {date}")


def test_what_was_measured_is_noted_of_all_runs(folder: Path) -> None:
    generate(calibration(folder), (0.99, 0.92, 0.3))
    header = load_profile(files(folder)[0]).header
    assert noise_levels(header) == (0.95, 0.3)
    assert header.parameters["rows"] == 32  # still a number: sampling errors are told by it
    assert load_plan(files(folder)[1]).provenance.parameters["sigma_low"] == 0.3


def test_another_preset_is_searched_without_measuring_and_kept_beside(complete: Path) -> None:
    fast = files(complete)[1]
    run = calibration(complete, preset="faithful")
    assert run.policy.measurement is None
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert {path.name for path in complete.glob("*.json")} == {fast.name, fast.name.replace(".fast.", ".faithful.")}
    plans = [load_plan(path) for path in sorted(complete.glob("*.json"))]
    assert [plan.provenance.parameters["error"] for plan in plans] == [0.03, 0.1]


def test_copies_of_the_model_share_its_plan_and_others_do_not(folder: Path) -> None:
    assert second(folder, fingerprint=COPY).policy.measurement is not None
    profile, _ = files(folder)  # still one of each
    assert generations(folder) == 2
    assert load_profile(profile).header.parameters["fingerprint"] == str(KNOWN)  # not the coarser one, which more fit
    assert store(folder, OTHER).find(GRID) is None
    for _ in range(2):
        second(folder, fingerprint=OTHER)
    assert len(list(folder.glob("*.safetensors"))) == 2
    for known in (KNOWN, OTHER):
        assert second(folder, fingerprint=known).policy.measurement is None


def test_a_model_without_a_fingerprint_runs_its_plan_once(folder: Path) -> None:
    before = listing(folder)
    run = calibration(folder, fingerprint=None)
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert "; not kept: nothing tells this model from others" in line(run)
    assert "next run" not in line(run)
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("grid", "found"), [((5, 8, 9), True), ((9, 5, 16), True), ((11, 8, 9), False), ((5, 8, 4), False), (None, True)]
)
def test_sizes_that_are_not_far_share_a_plan(folder: Path, grid: tuple | None, found: bool) -> None:
    model = FoundPlans(store(folder), "fast", grid)
    assert (model.plan is not None) == found
    assert model.wants_more() == (grid == GRID or not found)  # only the same size is added to


def test_the_nearest_size_is_taken(folder: Path) -> None:
    profile, _ = files(folder)
    near = load_profile(profile)
    near = replace(near, header=replace(near.header, grid=(5, 8, 12)))
    save_profile(near, profile.with_name(profile.name.replace("5x8x9", "5x8x12")))
    assert [store(folder).find((5, 8, width)).grid[2] for width in (9, 10, 11, 24)] == [9, 9, 12, 12]


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
def test_what_cannot_be_used_is_set_aside_and_never_deleted(folder: Path, broken: str) -> None:
    profile, plan = files(folder)
    BROKEN[broken](profile, plan)
    aside = plan if "plan" in broken else profile
    content = aside.read_bytes()
    (folder / f"{aside.name}.aside").write_text("an earlier one")
    run = calibration(folder)
    begun_with_a_plan = run.policy.planned is not None
    assert begun_with_a_plan == ("plan" in broken)  # the profile alone gives the plan again
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert f"{aside.name} cannot be used and was renamed to {aside.name}.aside1: " in line(run)
    assert (folder / f"{aside.name}.aside1").read_bytes() == content
    assert (folder / f"{aside.name}.aside").read_text() == "an earlier one"
    for _ in range(2):
        again = second(folder)
    assert again.policy.measurement is None  # and whole again
    assert files(folder) == (profile, plan)


def test_a_plan_of_the_users_own_in_the_way_is_set_aside(folder: Path) -> None:
    """There is no profile beside it, so that nobody has looked at it before it would be overwritten."""
    profile, plan = files(folder)
    profile.unlink()
    own = of_model(load_plan(plan), KNOWN)
    own = replace(own, provenance=replace(own.provenance, parameters={}))
    save_plan(own, plan, overwrite=True)
    run = second(folder)
    assert "it was not made while sampling" in line(run)
    assert load_plan(folder / f"{plan.name}.aside") == own
    assert load_plan(plan).provenance.parameters["fingerprint"] == str(KNOWN)


def test_names_and_sizes_of_other_packs_are_left_alone(folder: Path) -> None:
    others = {"wan-notes.txt": b"mine", "ltx-3x3x128-x.safetensors": b"", "my plan.json": b"{}"}
    for name, content in others.items():
        (folder / name).write_bytes(content)
    second(folder)
    assert others.items() <= listing(folder).items()


def test_a_plan_of_less_than_the_profile_is_searched_again(folder: Path) -> None:
    """Another ComfyUI has completed it for another preset."""
    profile, plan = files(folder)
    old = plan.read_bytes()
    second(folder, preset="faithful")
    assert plan.read_bytes() == old
    run = second(folder)
    assert plan.read_bytes() != old
    assert "for the next run kept as" in line(run) and run.policy.measurement is None
    assert load_plan(plan).provenance.parameters["samples"] == int(load_profile(profile).samples.sum())


def test_two_runs_at_once_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both began without a plan; the one that ends last adds to what the first has kept."""
    monkeypatch.setattr(measure, "WORTH", float("inf"))  # a busy machine measures all the same
    runs = [calibration(tmp_path) for _ in range(2)]
    counts = []
    for run in runs:
        assert generate(run) == [NONE, NONE, ALL, ALL]
        counts.append(load_profile(files(tmp_path)[0]).samples.sum())
    assert counts[1] == 2 * counts[0] and generations(tmp_path) == 2
    assert "for the next run kept as" in line(runs[1])


def test_a_run_that_measures_nothing_leaves_what_another_adds_meanwhile(complete: Path) -> None:
    """It began before the other, searched a plan of its preset, and ends after it."""
    slow, profile = calibration(complete, preset="faithful"), files(complete)[0]
    known = load_profile(profile)
    grown = replace(known, samples=known.samples + 1)
    save_profile(grown, profile, overwrite=True)
    generate(slow)
    assert load_profile(profile).samples.tolist() == grown.samples.tolist()
    kept = store(complete).plan(store(complete).find(GRID), "faithful")
    assert kept.provenance.parameters["samples"] == int(known.samples.sum())


def test_a_folder_that_cannot_be_written_costs_the_keeping_alone(tmp_path: Path) -> None:
    place = tmp_path / "calibrated"
    place.write_text("a file where the folder should be")
    run = calibration(place)
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert "not kept: " in line(run)
    assert place.read_text() == "a file where the folder should be"


def test_a_full_disk_leaves_what_was_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listing(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    run = second(folder)
    assert "not kept: [Errno 28] No space left on device" in line(run)
    assert listing(folder) == before


@pytest.mark.parametrize("broken", ["profile", "plan"])
def test_what_cannot_be_set_aside_is_not_overwritten(
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
    assert line(run).count("could not be renamed") == 1
    assert f"not kept: {path.name} is in the way" in line(run)
    assert listing(folder) == before


def test_profiles_of_other_candidates_are_not_mixed(folder: Path) -> None:
    """As after an update of the pack: the old ones are set aside, once, and the heads are measured anew."""
    profile, _ = files(folder)
    old = load_profile(profile)
    candidates = (*old.header.candidates[:-1], old.header.candidates[2])
    save_profile(replace(old, header=replace(old.header, candidates=candidates)), profile, overwrite=True)
    content = profile.read_bytes()
    run = calibration(folder)
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert "measured for other candidates than now: 7 and 7 of them, the first other one is number 6, " in line(run)
    assert len(line(run)) < 1500
    assert (folder / f"{profile.name}.aside").read_bytes() == content
    assert generations(folder) == 1
    for _ in range(2):
        again = second(folder)
    assert again.policy.measurement is None


def test_odd_numbers_in_a_profile_are_no_noise_levels(folder: Path) -> None:
    found = load_profile(files(folder)[0])
    for high, low in (("1", 0.5), (True, 0.5), (-1.0, -2.0), (0.5, 1.0), (None, None)):
        assert noise_levels(noted(found, {"sigma_high": high, "sigma_low": low}).header) is None


def test_plans_lie_beside_their_profile(folder: Path) -> None:
    profile, plan = files(folder)
    assert profile.name == f"wan-{LAYERS}x3x128-{KNOWN.digest}-5x8x9.safetensors"
    assert plan == profile.with_name(f"{profile.stem}.fast.json")
    found = store(folder).find(GRID)
    assert found.stem == profile.with_suffix("")
    assert store(folder).plan(found, "fast").name == plan_name(found.stem, "fast") == f"user/calibrated/{plan.stem}"
    assert store(folder).plan(found, "faithful") is None
