"""A run without a plan: what it measures, when it goes sparse, and what becomes of trouble on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from calibrations import (
    ALL,
    GRID,
    HEADS,
    LAYERS,
    NONE,
    SIGMAS,
    START,
    calibration,
    forward,
    generate,
    qkv,
    store,
)
from runs import dense_calls, line
from sample_plans import listing
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.policies.calibrate import CalibrationPolicy
from sparse_vdit.nodes.host.policies.kernel_tuner import KernelTuner, forget_times
from sparse_vdit.nodes.host.policies.measure import OTHER_SIZE
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.policies.profile import ProfilePolicy
from sparse_vdit.nodes.host.session.call import Call
from sparse_vdit.plans.plan.plan import EVERY_SIGMA
from told_clock import ToldClock

TROUBLE = ValueError("trouble was asked for")


def raising(error: BaseException) -> Callable:
    """A function that raises."""

    def function(*_: object) -> None:
        raise error

    return function


def test_the_warm_up_is_measured_and_the_rest_runs_the_plan(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert dense_calls(run) == {fallback.WARM_UP: 2 * LAYERS}
    said = line(run)
    assert "kept as user/calibrated/wan-3x3x128-" in said and f"-{'x'.join(map(str, GRID))}.fast" in said
    assert "no plan connected and none shipped: found in this run" in said
    (profile,) = tmp_path.glob("*.safetensors")
    assert [path.name for path in tmp_path.glob("*.json")] == [f"{profile.stem}.fast.json"]


def test_the_plan_says_where_it_comes_from(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    generate(run)
    plan = run.policy.planned.plan
    assert [(band.sigma_high, band.sigma_low) for band in plan.bands] == [(EVERY_SIGMA, START), (START, 0.0)]
    known = plan.provenance
    assert known.source == "measured while sampling"
    assert (known.parameters["sigma_high"], known.parameters["sigma_low"]) == (0.95, 0.6)
    assert "from 0.95 to 0.6" in known.notes
    assert known.parameters["predicted_error"] <= known.parameters["error"] == 0.1


@pytest.mark.parametrize(("few", "where"), [(False, 0.95), (True, 1.0)])
def test_the_dense_start_is_measured_where_the_plan_will_run(tmp_path: Path, few: bool, where: float) -> None:
    """In its last step, next to the sparse ones; in its first where the next run is sparse from there on."""
    sigmas = (1.0, 0.97, 0.95)
    run = calibration(tmp_path, sigmas=(*sigmas, 0.5), few=few)
    for sigma in sigmas:
        assert forward(run, sigma) == forward(run, sigma) == NONE  # the other prompt of the same step
    assert levels(run) == [where] * LAYERS


def levels(run: object) -> list[float]:
    """Noise levels that calls were measured at so far, in their order."""
    return run.policy.measurement._levels


def test_without_a_dense_step_the_first_one_is_measured_once(tmp_path: Path) -> None:
    """The second of two samplers: one prompt of its first step, which is dense for both. The next run is sparse from
    the first step on."""
    sigmas = (0.8, 0.8, 0.5, 0.5)
    run = calibration(tmp_path, sigmas=sigmas)
    assert generate(run, sigmas) == [NONE, NONE, ALL, ALL]
    assert dense_calls(run) == {fallback.MEASURED: 2 * LAYERS}
    assert levels(run) == [0.8] * LAYERS
    again = calibration(tmp_path, sigmas=sigmas)
    assert generate(again, sigmas) == [ALL] * 4


def test_what_the_warm_up_left_out_is_measured_in_the_next_step(tmp_path: Path) -> None:
    """A sampler that begins its warm-up with a call of other tokens, as if a layer was missed."""
    run = calibration(tmp_path, sigmas=(1.0, 0.5, 0.3))
    forward(run, 1.0, layers=range(LAYERS - 1))
    assert forward(run, 0.5) == NONE
    assert dense_calls(run) == {fallback.WARM_UP: LAYERS - 1, fallback.MEASURED: LAYERS}
    assert levels(run) == [1.0, 1.0, 0.5, 0.5, 0.5]
    assert forward(run, 0.3) == ALL


@pytest.mark.parametrize(("few", "helps"), [(True, fallback.MEASURED), (False, fallback.WARM_UP)])
def test_a_first_run_of_too_few_steps_is_told_that_the_next_one_has_a_plan(
    tmp_path: Path, few: bool, helps: fallback.Dense
) -> None:
    """Where the next one runs it in the warm-up too; else a smaller start_percent helps."""
    run = calibration(tmp_path, few=few)
    generate(run, (1.0, 0.95))
    assert f"Not faster here: {helps.sentence}. {helps.advice}" in line(run)
    again = calibration(tmp_path, few=few)
    generate(again, (1.0, 0.95))
    assert again.policy.advice() is None
    assert ("Not faster here" in line(again)) != few


def test_a_run_that_ends_in_the_warm_up_leaves_a_plan_for_the_next(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    assert generate(run, (1.0, 0.95)) == [NONE, NONE]
    assert "kept as" in line(run)
    assert generate(calibration(tmp_path)) == [NONE, NONE, ALL, ALL]


def test_few_steps_follow_the_kept_plan_from_the_first_on(tmp_path: Path) -> None:
    """Only at noise levels that were measured: where few steps were to be skipped, from the first on."""
    sigmas = (1.0, 0.95, 0.5)
    for folder, few, second in ((tmp_path / "many", False, [NONE, ALL, ALL]), (tmp_path / "few", True, [ALL] * 3)):
        assert generate(calibration(folder, sigmas=sigmas, few=few), sigmas) == [NONE, NONE, ALL]
        assert generate(calibration(folder, few=True), sigmas) == second
        assert generate(calibration(folder), sigmas) == [NONE, NONE, ALL]


def test_videos_of_another_size_in_one_run_are_left_out(tmp_path: Path) -> None:
    """Context windows: the last may be longer. Every size runs the plan."""
    run, longer = calibration(tmp_path), (6, 8, 9)
    for sigma in (1.0, 0.95):
        forward(run, sigma)
        forward(run, sigma, grid=longer)
    assert forward(run, 0.5, grid=longer) == forward(run, 0.5) == ALL
    run.free()
    run.policy.keep()
    assert f"{LAYERS} left out: {OTHER_SIZE}" in line(run)


def test_masked_text_cannot_be_measured_and_the_report_says_so(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    mask = torch.zeros(1, 1, 5 * 8 * 9)
    assert generate(run, mask=mask) == [NONE] * 4
    why = {fallback.WARM_UP: 2 * LAYERS, fallback.MEASURED: LAYERS, fallback.NOT_CALIBRATED: LAYERS}
    assert dense_calls(run) == why
    assert "no plan was found: no attention call could be measured" in line(run)
    assert f"left out: {fallback.MASKED}" in line(run)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [TROUBLE, torch.OutOfMemoryError("CUDA out of memory")])
def test_trouble_while_measuring_costs_the_plan_and_not_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(ProfilePolicy, "observe", raising(error))
    run = calibration(tmp_path)
    assert generate(run) == [NONE] * 4
    assert dense_calls(run) == {fallback.WARM_UP: 2 * LAYERS, fallback.NOT_CALIBRATED: 2 * LAYERS}
    assert line(run).count("calibration failed") == 1 and str(error) in line(run)
    assert not list(tmp_path.iterdir())


def test_trouble_while_adding_to_a_plan_leaves_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(calibration(tmp_path), SIGMAS[:3])
    before = listing(tmp_path)
    monkeypatch.setattr(ProfilePolicy, "observe", raising(TROUBLE))
    run = calibration(tmp_path)
    assert run.policy.measurement is not None
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert "calibration failed (ValueError: trouble was asked for)" in line(run)
    assert {name: content for name, content in listing(tmp_path).items() if name.endswith("json")} == {
        name: content for name, content in before.items() if name.endswith("json")
    }
    assert calibration(tmp_path).policy.measurement is None, "a second run that could not measure was not the last one"


def test_trouble_while_asking_what_to_measure_costs_the_plan_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = calibration(tmp_path)
    monkeypatch.setattr(run.policy.measurement, "take", raising(TROUBLE))
    assert generate(run) == [NONE] * 4
    assert line(run).count("calibration failed (ValueError: trouble was asked for)") == 1


class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
    """ComfyUI's, as older ones have it: an ordinary exception."""


def test_the_users_interrupt_passes_through_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ProfilePolicy, "observe", raising(InterruptProcessingException()))
        run = calibration(tmp_path)
        with pytest.raises(InterruptProcessingException):
            forward(run, 0.95)
        run.free()
    assert not list(tmp_path.iterdir())
    assert generate(calibration(tmp_path)) == [NONE, NONE, ALL, ALL]


def test_numbers_that_are_not_finite_give_no_plan(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    forward(run, 0.95)
    run.policy.measurement.policy.profiler.sums["projected"][:] = torch.nan
    assert forward(run, 0.5) == NONE
    run.free()
    run.policy.keep()
    assert "not finite" in line(run)
    assert not list(tmp_path.iterdir())


def test_the_plans_kernels_are_judged_by_the_times_of_the_warm_up(tmp_path: Path) -> None:
    """Dense attention is timed while there is no plan yet."""
    forget_times()
    run = calibration(tmp_path, tuner=KernelTuner())
    run.clock = run.executor.clock = ToldClock(dense=10.0, exact=9.9, calibration=1.0)
    assert generate(run) == [NONE] * 4
    assert run.clock.timed.count("dense") == 3
    assert dense_calls(run)[fallback.NOT_FASTER] > 0
    assert "9.90 ms sparse and 10.00 ms dense" in line(run)
    assert list(tmp_path.glob("*.json"))  # kept all the same: another size or card may be faster
    forget_times()


def test_what_lies_on_a_device_is_freed_before_the_plan_is_kept(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    forward(run, 1.0)
    forward(run, 0.95)
    run.free()
    assert run.policy.measurement.policy is None
    run.free()
    run.policy.keep()
    assert store(tmp_path).find(GRID) is not None


def test_nothing_is_measured_after_the_end(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    run.policy.sigma_end = 0.95 * START
    assert forward(run, 0.5 * START) == NONE
    assert dense_calls(run) == {fallback.AFTER_END: LAYERS}
    assert not levels(run)


def test_the_title_and_details_are_the_plans_once_there_is_one(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    assert (run.policy.title, run.policy.detail()) == ("wan, calibrating", {"plan": None})
    generate(run)
    assert run.policy.title == run.policy.planned.title == run.policy.detail()["plan"]
    assert run.policy.found_here and run.policy.measured is not None


def test_what_the_policy_decides_is_the_plans_decision(tmp_path: Path) -> None:
    """Through its interface alone: measured calls are asked about in the warm-up, and dense for that reason."""
    policy = calibration(tmp_path).policy
    assert isinstance(policy, CalibrationPolicy)
    heads = [x.unflatten(-1, (HEADS, 128)) for x in qkv(3)]
    for sigma in (1.0, 0.95):
        assert policy.begin_step(sigma) is None and policy.observer is policy
        for layer in range(LAYERS):
            call = Call(layer, TokenGrid(*GRID), *heads)
            if policy.take(call):
                policy.observe(call)
            assert policy.decide(call) == fallback.WARM_UP
    assert policy.planned is None
    assert policy.begin_step(0.6) is None
    assert isinstance(policy.planned, PlanPolicy)
    assert policy.decide(call) is policy.planned.decide(call)
    policy.failed()
    assert policy.observer is None
    assert policy.begin_step(0.3) is None  # sparse, and nothing is measured
