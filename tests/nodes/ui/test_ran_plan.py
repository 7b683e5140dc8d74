"""What the viewer is told of a run: its plan before anything was kept dense, and the measured speed-up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from calibrations import HEADS as TOY_HEADS
from calibrations import LAYERS as TOY_LAYERS
from calibrations import calibration, generate
from comfyui_stand_ins import host_module
from runs import dense_calls, forward, plan_of, qkv, run_of, tuned
from sparse_vdit.kernels.patterns import Dense, Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.stats import RunStats
from sparse_vdit.nodes.host.policies.kernel_tuner import forget_times
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.ui.pictured import pictured_plans
from sparse_vdit.plans.plan.plan import Provenance
from sparse_vdit.plans.profile.profile_files import load_profile
from sparse_vdit.plans.search.cost import FLOP_MODEL
from sparse_vdit.plans.search.kept_dense import kept_dense
from told_clock import ToldClock

ran_plan = host_module("ui.viewer").ran_plan
NOTHING = {"view": None, "kept": "", "speedup": None}

GRID, LAYERS, HEADS = (3, 8, 11), 4, 2
LONG = (9, 8, 11)  # where NARROW and WIDE leave something out
NARROW, WIDE = Diagonal(0), Diagonal(1)


@pytest.fixture(autouse=True)
def nothing_timed() -> Iterator[None]:
    forget_times()
    yield
    forget_times()


def small(grid: tuple[int, int, int] = GRID) -> list[torch.Tensor]:
    """q, k, v of the plans here."""
    return qkv(1, grid[0] * grid[1] * grid[2], HEADS, 64)


@pytest.mark.parametrize(("exact", "speedup"), [(4.0, 12 * 10 / (5 * 10 + 7 * 4)), (9.9, 1.0)])
def test_the_speedup_is_of_all_calls_of_the_run(exact: float, speedup: float) -> None:
    """Of 12: four in the dense start, one that the verdict was found with, seven that went by it."""
    run, x = tuned(plan_of([NARROW] * LAYERS, grid=GRID), ToldClock(dense=10.0, exact=exact)), small()
    assert ran_plan(run.policy, run.stats)["speedup"] is None
    for sigma in (0.9, 0.5, 0.4):
        forward(run, sigma, x, GRID)
    assert ran_plan(run.policy, run.stats)["speedup"] == pytest.approx(speedup)
    assert (fallback.NOT_FASTER in dense_calls(run)) == (speedup == 1)


def test_the_view_is_of_the_whole_plan_and_the_run_obeys_what_is_kept_dense() -> None:
    plan = plan_of([NARROW, WIDE] * (LAYERS // 2), grid=GRID)
    run = run_of(PlanPolicy(plan, 0.8, 0.0, "auto", kept=kept_dense("0")))
    forward(run, 0.5, small(LONG), LONG)
    assert run.stats.forward.layers[0] == {fallback.KEPT_DENSE: 1}
    assert run.stats.forward.layers[1] == {"sparse": 1}
    told = ran_plan(run.policy, run.stats)
    assert json.loads(json.dumps(told)) == told
    assert (told["kept"], told["speedup"]) == ("0", None)
    kinds = [pattern["kind"] for pattern in told["view"]["patterns"]]
    assert [kinds[n] for n in told["view"]["bands"][0]["heads"][0]] == [plan.pattern(0, 0, 0).kind] * HEADS
    assert Dense.kind not in kinds
    assert told["view"]["grid"] == list(LONG)


def test_the_expected_speed_is_of_the_size_that_ran() -> None:
    """What a plan names was measured at its own size."""
    named = Provenance(parameters={"attention_speedup": 9.0, "times": "measured on a card"})
    plan = replace(plan_of([NARROW] * LAYERS, grid=GRID), provenance=named)
    expected = {}
    for grid in (GRID, LONG):
        run = run_of(PlanPolicy(plan, 0.8, 0.0, "torch"))
        forward(run, 0.5, small(grid), grid)
        expected[grid] = ran_plan(run.policy, run.stats)["view"]["expected"]
    assert (expected[GRID]["speedup"], expected[GRID]["times"]) == (9.0, "measured on a card")
    density = run.policy.detail()["bands"][0]["densities"]["9x8x11"][0][0]
    assert expected[LONG]["times"] == FLOP_MODEL
    assert expected[LONG]["speedup"] == pytest.approx(1 / density, rel=1e-3)
    assert expected[LONG]["share"] > expected[GRID]["share"]


def test_densities_are_those_of_the_video_and_not_of_the_profile() -> None:
    plan, larger = plan_of([NARROW] * LAYERS, grid=GRID), (3, 16, 22)
    run = run_of(PlanPolicy(plan, 0.8, 0.0, "torch"))
    forward(run, 0.5, small(larger), larger)
    shown = ran_plan(run.policy, run.stats)["view"]["patterns"][0]["density"]
    met = run.policy.detail()["bands"][0]["densities"]
    assert shown == pytest.approx(met["3x16x22"][0][0], abs=1e-4)
    assert shown != plan.pattern_densities()[0]


def test_densities_are_those_of_the_video_that_was_met_last() -> None:
    """Of a size that returns too, as context windows of two lengths do."""
    larger = (3, 16, 22)
    run = run_of(PlanPolicy(plan_of([NARROW] * LAYERS, grid=GRID), 0.8, 0.0, "torch"))
    shown = []
    for grid in (GRID, larger, GRID):
        forward(run, 0.5, small(grid), grid)
        shown.append(ran_plan(run.policy, run.stats)["view"]["patterns"][0]["density"])
    assert shown[0] == shown[2] != shown[1]


def test_calibration_shows_nothing_before_there_is_a_plan_and_tells_its_progress(tmp_path: Path) -> None:
    run, told = calibration(tmp_path), []
    run.policy.measurement.progress = lambda done, of: told.append((done, of))
    assert ran_plan(run.policy, run.stats) == ran_plan(None, RunStats()) == NOTHING
    generate(run)
    assert told == [(number, TOY_LAYERS) for number in range(1, TOY_LAYERS + 1)]
    view = ran_plan(run.policy, run.stats)["view"]
    assert view["layers"] == TOY_LAYERS
    assert torch.isfinite(torch.tensor(view["expected"]["speedup"]))


def test_what_heads_attend_is_kept_for_pictures(tmp_path: Path) -> None:
    """By the run that found the plan, with it; by later ones under the name of the file beside the profile."""
    first, again = calibration(tmp_path), calibration(tmp_path / "other")
    for run in (first, again):
        generate(run)
        shown = pictured_plans.get(ran_plan(run.policy, run.stats)["view"]["pictures"]["shown"])
        assert shown.plan is run.policy.planned.whole
        assert shown.maps.shape[:2] == (TOY_LAYERS, TOY_HEADS)
        shares = shown.maps.sum(-1)  # for each part of the video, 0 where no query was sampled
        assert torch.allclose(shares, shares.round(), atol=1e-5)
        assert (shares > 0.5).any(-1).all()
    later = calibration(tmp_path)
    generate(later)
    shown = pictured_plans.get(ran_plan(later.policy, later.stats)["view"]["pictures"]["shown"])
    assert shown.maps is None
    (profile,) = tmp_path.glob("*.safetensors")
    assert shown.name == f"user/calibrated/{profile.stem}.fast"
    assert load_profile(profile).maps is not None
