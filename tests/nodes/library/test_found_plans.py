"""Which kept measurements a run begins with: what it can read and add to, measured where it samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from calibrations import ALL, COPY, KNOWN, NONE, SIGMAS, calibration, fingerprint_like, first_run, generate
from runs import line
from sample_plans import listing
from sparse_vdit.nodes.host.library.fingerprint import Fingerprint
from sparse_vdit.nodes.host.library.found import FINGERPRINT, GENERATIONS, noted
from sparse_vdit.plans.plan.files import load_plan
from sparse_vdit.plans.profile import profile_files
from sparse_vdit.plans.profile.profile import Profile, ProfileHeader
from sparse_vdit.plans.profile.profile_files import load_profile, save_profile
from sparse_vdit.plans.search.cost import HeadCosts, profile_costs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Calibrated plans after the first run."""
    for name, content in first_run().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_profile_that_cannot_be_opened_just_now_is_there_again_at_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(folder)

    def once(*_: object) -> None:
        monkeypatch.undo()
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(profile_files, "safe_open", once)
    run = calibration(folder)
    assert run.policy.planned is None and listing(folder) == before
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert "could not be read: [Errno 24] Too many open files" in line(run)
    assert listing(folder).keys() == before.keys()
    (profile,) = folder.glob("*.safetensors")
    assert load_profile(profile).header.parameters[GENERATIONS] == 2  # it was added to


LATER = (0.6, 0.3)


@pytest.fixture
def first_stage(tmp_path: Path) -> Path:
    """What the first expert of Wan 2.2 leaves, which sees high noise levels alone."""
    generate(calibration(tmp_path, sigmas=(1.0, 0.95)), (1.0, 0.95))
    return tmp_path


def test_a_model_alike_at_other_noise_levels_has_a_plan_of_its_own(first_stage: Path) -> None:
    """The second expert, which is like the first one up to the rounding of 8 bits."""
    folder = first_stage
    before = listing(folder)
    stage = {"fingerprint": COPY, "sigmas": LATER}
    assert generate(calibration(folder, **stage), LATER) == [NONE, ALL]
    assert before.items() < listing(folder).items()
    (own,) = (path for path in folder.glob("*.safetensors") if path.name not in before)
    assert load_profile(own).header.parameters["sigma_high"] == 0.6
    for again in (stage, {**stage, "sigmas": (0.5, 0.2)}):  # of another schedule too
        run = calibration(folder, **again)
        assert generate(run, again["sigmas"]) == [ALL, ALL]
        assert f"plan user/calibrated/{own.stem}.fast" in line(run)


@pytest.mark.parametrize(("fingerprint", "sigmas", "found"), [
    (KNOWN, LATER, True), (COPY, SIGMAS, True), (COPY, (0.95, 0.5), True), (COPY, LATER, False), (COPY, (9.0,), False),
])  # fmt: skip
def test_which_copies_share_a_plan(first_stage: Path, fingerprint: Fingerprint, sigmas: tuple, found: bool) -> None:
    assert (calibration(first_stage, fingerprint=fingerprint, sigmas=sigmas).policy.planned is not None) == found


def test_a_plan_stays_as_it_is_whatever_times_are_measured_later(folder: Path) -> None:
    """They count for plans that are searched anew."""

    def measured(header: ProfileHeader) -> HeadCosts:
        return replace(profile_costs(header), times="measured on a toy")

    (path,) = folder.glob("*.json")
    generate(calibration(folder))  # the last that adds
    plan = load_plan(path)
    for costs in (profile_costs, measured):
        generate(calibration(folder, costs=costs))
        assert load_plan(path) == plan
    path.unlink()
    generate(calibration(folder, costs=measured))
    assert load_plan(path).provenance.parameters["times"] == "measured on a toy"


def of_other_candidates(profile: Profile) -> Profile:
    candidates = (*profile.header.candidates[:-1], profile.header.candidates[2])
    return replace(profile, header=replace(profile.header, candidates=candidates))


def of_another_model(profile: Profile) -> Profile:
    return noted(profile, {FINGERPRINT: str(fingerprint_like(1.1))})


@pytest.mark.parametrize("change", [of_other_candidates, of_another_model])
@pytest.mark.parametrize("movable", [True, False])
def test_a_readable_profile_of_no_use_is_never_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Profile], Profile], movable: bool
) -> None:
    def fixed(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (path,) = folder.glob("*.safetensors")
    save_profile(change(load_profile(path)), path, overwrite=True)
    content = path.read_bytes()
    if not movable:
        monkeypatch.setattr(Path, "rename", fixed)
    run = calibration(folder)
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert (folder / f"{path.name}.aside" if movable else path).read_bytes() == content
    assert ("is in the way" in line(run)) != movable
