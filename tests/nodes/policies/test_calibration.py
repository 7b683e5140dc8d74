"""A run without a plan: what it measures, when it goes sparse, and what becomes of trouble on the way."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from calibrations import (
    ALL,
    CANDIDATES,
    GRID,
    LAYERS,
    NONE,
    START,
    calibration,
    forward,
    generate,
    kept,
    measuring,
)
from sparse_vdit.nodes.host.calibration import calibrated_model
from sparse_vdit.nodes.host.calibration import measuring as measuring_module
from sparse_vdit.nodes.host.calibration.calibration import CalibrationEngine, begun
from sparse_vdit.nodes.host.calibration.measuring import MOST_SHARE, OTHER_SIZE, judged_share
from sparse_vdit.nodes.host.reports import reasons
from sparse_vdit.nodes.host.reports.pictured import pictured_plans
from sparse_vdit.nodes.host.runs.engine import Call, Engine
from sparse_vdit.nodes.host.runs.profile_engine import ProfileEngine
from sparse_vdit.nodes.host.speed.race import Race
from sparse_vdit.plans.plan.plan import EVERY_SIGMA
from sparse_vdit.plans.profile.profile_files import load_profile


def test_takes_what_the_protocol_says() -> None:
    for name in ("reason", "prepare", "attention", "dense_timer", "told", "detail", "free"):
        said = inspect.signature(getattr(Engine, name)).parameters
        assert list(inspect.signature(getattr(CalibrationEngine, name)).parameters) == list(said), name


def test_the_warm_up_is_measured_and_the_rest_runs_the_plan(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert run.ledger.dense == {reasons.WARM_UP: 2 * LAYERS}
    line = run.report()
    assert "kept as user/calibrated/wan-3x3x128-" in line and f"-{'x'.join(map(str, GRID))}.fast" in line
    assert "no plan connected and none shipped: found in this run" in line
    (profile,) = tmp_path.glob("*.safetensors")
    assert [path.name for path in tmp_path.glob("*.json")] == [f"{profile.stem}.fast.json"]


def test_what_heads_attend_is_kept_for_pictures(tmp_path: Path) -> None:
    """By the run that found the plan, with it; by later ones under the name of the file beside the profile."""
    first, again = calibration(tmp_path), calibration(tmp_path / "other")
    for run in (first, again):
        generate(run)
        run.report()
        shown = pictured_plans.get(run.engine.viewed()["view"]["pictures"]["shown"])
        assert shown.plan is run.engine.planned.whole
        assert shown.maps.shape[:2] == (LAYERS, 3)
        shares = shown.maps.sum(-1)  # for each part of the video, 0 where no query was sampled
        assert torch.allclose(shares, shares.round(), atol=1e-5)
        assert (shares > 0.5).any(-1).all()
    later = calibration(tmp_path)
    generate(later)
    later.report()
    shown = pictured_plans.get(later.engine.viewed()["view"]["pictures"]["shown"])
    assert shown.maps is None
    (profile,) = tmp_path.glob("*.safetensors")
    assert shown.name == f"user/calibrated/{profile.stem}.fast"
    assert load_profile(profile).maps is not None


def test_the_plan_says_where_it_comes_from(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    generate(run)
    plan = run.engine.planned.plan
    assert [(band.sigma_high, band.sigma_low) for band in plan.bands] == [(EVERY_SIGMA, 0.0)]
    known = plan.provenance
    assert known.source == "measured while sampling"
    assert (known.parameters["sigma_high"], known.parameters["sigma_low"]) == (1.0, 0.95)
    assert "from 1 to 0.95" in known.notes
    assert known.prompts == ("prompt a",)
    assert known.parameters["predicted_error"] <= known.parameters["error"] == 0.1


def test_layers_are_spread_over_the_dense_steps_where_all_at_once_would_cost_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = judged_share(360, 128, len(CANDIDATES))
    for times, steps, parts in ((0.9, 3, 1), (1.5, 3, 2), (1e9, 3, 3), (1e9, 0, 1)):
        slower = times * MOST_SHARE / share
        monkeypatch.setitem(measuring_module.SLOWER, "cpu", slower)
        run = calibration(tmp_path / f"{slower}", steps=steps)
        measured = []

        def observe(_: object, call: Call, sigma: float, to: list = measured) -> None:
            to.append((sigma, call.layer))

        monkeypatch.setattr(ProfileEngine, "observe", observe)
        sigmas = (1.0, 0.97, 0.95)
        for sigma in sigmas:
            forward(run, sigma)
            forward(run, sigma)  # the other prompt of the same step
        wanted = [(sigma, n) for step, sigma in enumerate(sigmas) for n in range(LAYERS) if n % parts == step % parts]
        assert sorted(measured) == sorted(wanted)


def test_without_a_dense_step_the_first_one_is_measured_once(tmp_path: Path) -> None:
    """The second of two samplers: one prompt of its first step, which is dense for both. The next run is sparse from
    the first step on, and its band is measured on the way, spread over both."""
    sigmas = (0.8, 0.8, 0.5, 0.5)
    run = calibration(tmp_path, steps=0, sigmas=sigmas)
    assert generate(run, sigmas) == [NONE, NONE, ALL, ALL]
    assert run.ledger.dense == {reasons.MEASURED: 2 * LAYERS}
    assert run.engine.measuring.levels == [0.8] * LAYERS
    again = calibration(tmp_path, steps=0, prompt="prompt b", sigmas=sigmas)
    assert generate(again, sigmas) == [ALL] * 4
    assert again.engine.measuring.levels == [0.8, 0.8, 0.5]


def test_what_the_warm_up_left_out_is_measured_in_the_next_step(tmp_path: Path) -> None:
    """A sampler that begins its warm-up with a call of other tokens, as if a layer was missed."""
    run = calibration(tmp_path, steps=1)
    forward(run, 1.0, layers=range(LAYERS - 1))
    assert forward(run, 0.5) == NONE
    assert run.ledger.dense == {reasons.WARM_UP: LAYERS - 1, reasons.MEASURED: LAYERS}
    assert run.engine.measuring.levels == [1.0, 1.0, 0.5, 0.5, 0.5]
    assert forward(run, 0.3) == ALL


def test_a_run_that_ends_in_the_warm_up_leaves_a_plan_for_the_next(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    assert generate(run, (1.0, 0.95)) == [NONE, NONE]
    assert "kept as" in run.report()
    assert generate(calibration(tmp_path)) == [NONE, NONE, ALL, ALL]


def test_few_steps_follow_the_kept_plan_from_the_first_on(tmp_path: Path) -> None:
    """Only at noise levels that were measured, and measured on the way."""
    generate(calibration(tmp_path), (0.95, 0.5))
    run = calibration(tmp_path, prompt="prompt b", few=True)
    assert generate(run, (1.0, 0.95, 0.5)) == [NONE, ALL, ALL]
    assert run.ledger.dense == {reasons.WARM_UP: LAYERS}
    assert set(run.engine.measuring.levels) == {1.0, 0.95, 0.5}
    third = calibration(tmp_path, prompt="prompt b", few=True)
    assert generate(third, (1.0, 0.95, 0.5)) == [ALL, ALL, ALL]
    assert generate(calibration(tmp_path, prompt="prompt b"), (1.0, 0.95, 0.5)) == [NONE, NONE, ALL]


def test_videos_of_another_size_in_one_run_are_left_out(tmp_path: Path) -> None:
    """Context windows: the last may be longer. Every size runs the plan."""
    run, longer = calibration(tmp_path), (6, 8, 9)
    for sigma in (1.0, 0.95):
        forward(run, sigma)
        forward(run, sigma, grid=longer)
    assert forward(run, 0.5) == forward(run, 0.5, grid=longer) == ALL
    run.free()
    run.engine.keep()
    assert run.engine.measuring.refused == {OTHER_SIZE: 2 * LAYERS - 1}
    assert f"{2 * LAYERS - 1} left out: {OTHER_SIZE}" in run.report()


def test_masked_text_cannot_be_measured_and_the_report_says_so(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    mask = torch.zeros(1, 1, 5 * 8 * 9)
    assert generate(run, mask=mask) == [NONE] * 4
    assert run.ledger.dense == {reasons.WARM_UP: 2 * LAYERS, reasons.MEASURED: LAYERS, reasons.NOT_CALIBRATED: LAYERS}
    assert "no plan was found: no attention call could be measured" in run.report()
    assert f"left out: {reasons.MASKED}" in run.report()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError("trouble was asked for"), torch.OutOfMemoryError("CUDA out of memory")])
def test_trouble_while_measuring_costs_the_plan_and_not_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def trouble(*_: object) -> None:
        raise error

    monkeypatch.setattr(ProfileEngine, "observe", trouble)
    run = calibration(tmp_path)
    assert generate(run) == [NONE] * 4
    assert run.ledger.dense == {reasons.WARM_UP: 2 * LAYERS, reasons.NOT_CALIBRATED: 2 * LAYERS}
    assert run.report().count("calibration failed") == 1 and str(error) in run.report()
    assert not list(tmp_path.iterdir())


def test_trouble_before_a_run_makes_it_dense_and_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with what is kept."""
    generate(calibration(tmp_path))
    for plan in tmp_path.glob("*.json"):
        plan.unlink()

    def trouble(*_: object) -> None:
        raise ValueError("grid: no such thing")

    monkeypatch.setattr(calibrated_model, "searched", trouble)
    assert begun(lambda: calibration(tmp_path)) == "calibration failed (ValueError: grid: no such thing)"


def test_trouble_while_adding_to_a_plan_leaves_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(calibration(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def trouble(*_: object) -> None:
        raise ValueError("trouble was asked for")

    monkeypatch.setattr(ProfileEngine, "observe", trouble)
    run = calibration(tmp_path, prompt="prompt b")
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert "calibration failed (ValueError: trouble was asked for)" in run.report()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_users_interrupt_passes_through_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
        pass

    def interrupt(*_: object) -> None:
        raise InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(ProfileEngine, "observe", interrupt)
        run = calibration(tmp_path)
        with pytest.raises(InterruptProcessingException):
            forward(run, 1.0)
        with pytest.raises(InterruptProcessingException):
            begun(interrupt)
        run.free()
    assert not list(tmp_path.iterdir())
    assert generate(calibration(tmp_path)) == [NONE, NONE, ALL, ALL]


def test_numbers_that_are_not_finite_give_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = calibration(tmp_path)
    forward(run, 1.0)
    run.engine.measuring.engine.profiler.sums["projected"][:] = torch.nan
    assert forward(run, 0.5) == NONE
    run.free()
    run.engine.keep()
    assert "not finite" in run.report()
    assert not list(tmp_path.iterdir())


def test_the_race_goes_on_with_the_times_of_the_warm_up(tmp_path: Path) -> None:
    """Dense attention is timed while there is no plan yet, and the plan's kernels are judged by it."""
    run = calibration(tmp_path, race=Race(("toy",)))
    run.clock = GivenClock({"dense": 10.0, "exact": 9.9, "calibration": 1.0})
    assert generate(run) == [NONE] * 4
    assert run.clock.timed.count("dense") == 3
    assert run.ledger.dense[reasons.NOT_FASTER] > 0
    assert "9.90 ms sparse and 10.00 ms dense" in run.report()
    assert list(tmp_path.glob("*.json"))  # kept all the same: another size or card may be faster


class GivenClock:
    """Every call takes as long as is said."""

    def __init__(self, milliseconds: dict[str, float]):
        self.milliseconds, self.timed = milliseconds, []

    def reserve(self, device: torch.device, calls: int) -> None:
        pass

    def ready(self, device: torch.device) -> bool:
        return True

    def start(self, device: torch.device, what: str, done: object) -> object:
        self.timed.append(what)
        return lambda: done(self.milliseconds[what])

    def collect(self, wait: bool = False) -> None:
        pass

    def free(self) -> None:
        pass


def test_what_lies_on_a_device_is_freed_before_the_plan_is_kept(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    forward(run, 1.0)
    forward(run, 0.95)
    run.free()
    assert run.engine.measuring.engine is None
    run.free()
    run.engine.keep()
    assert kept(tmp_path).find(GRID) is not None


def test_nothing_is_measured_after_the_end(tmp_path: Path) -> None:
    found = measuring(0)
    run = calibration(tmp_path, steps=0)
    run.engine.measuring, run.engine.sigma_end = found, 0.95 * START
    assert forward(run, 0.5 * START) == NONE
    assert run.ledger.dense == {reasons.AFTER_END: LAYERS}
    assert not found.levels
