"""What a run measures while it is sparse, for the plan of the next one, and when it leaves that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from calibrations import (
    ALL,
    BANDS,
    GRID,
    LAYERS,
    NONE,
    START,
    calibration,
    forward,
    generate,
    qkv,
)
from sparse_vdit.nodes.host.calibration import measuring as measuring_module
from sparse_vdit.nodes.host.calibration.calibrated_plan import LATER_BANDS, calibration_bands
from sparse_vdit.nodes.host.calibration.measuring import NOT_FINITE
from sparse_vdit.nodes.host.runs.engine import Call
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.profile_engine import ProfileEngine
from sparse_vdit.plans.plan.files import load_plan
from sparse_vdit.plans.plan.plan import EVERY_SIGMA
from sparse_vdit.plans.profile.profile_files import load_profile


def test_later_noise_levels_are_measured_while_the_run_is_sparse_each_layer_once_in_a_band(tmp_path: Path) -> None:
    """Spread over the band's steps; the plan of the run itself knows the warm-up alone, that of the next one all."""
    sigmas = (1.0, 0.95, 0.8, 0.7, 0.6, 0.3)
    run = calibration(tmp_path, steps=1, sigmas=sigmas)
    assert generate(run, sigmas) == [NONE, NONE, ALL, ALL, ALL, ALL]
    later = [level for level in run.engine.measuring.levels if level <= START]
    assert later == [0.8, 0.7, 0.6, *[0.3] * LAYERS]
    assert len(run.engine.planned.plan.bands) == 1
    (profile,), (plan,) = tmp_path.glob("*.safetensors"), tmp_path.glob("*.json")
    assert load_profile(profile).samples.tolist() == [[2] * LAYERS, [1] * LAYERS, [1] * LAYERS]
    bands = [(band.sigma_high, band.sigma_low) for band in load_plan(plan).bands]
    assert bands == list(BANDS)
    assert "for the next run kept as" in run.report() and "knows later noise levels too" in run.report()


def test_progress_is_told_once_for_each_layer(tmp_path: Path) -> None:
    """However many dense steps measure it again, and sparse ones later."""
    sigmas, told = (1.0, 0.99, 0.98, 0.5, 0.3), []
    run = calibration(tmp_path, steps=3, sigmas=sigmas)
    run.engine.measuring.progress = lambda done, of: told.append((done, of))
    assert generate(run, sigmas) == [NONE] * 3 + [ALL] * 2
    assert told == [(number, LAYERS) for number in range(1, LAYERS + 1)]


def test_what_no_run_has_measured_comes_first(tmp_path: Path) -> None:
    """A sampler that leaves out steps comes to all layers of a band in a few prompts, and no prompt twice."""
    sigmas = (1.0, 0.95, 0.4, 0.3, 0.2)
    for number, measured in enumerate(([1, 0, 0], [1, 1, 0], [1, 1, 1])):
        run = calibration(tmp_path, prompt=f"prompt {number}", sigmas=sigmas)
        generate(run, sigmas[:3])
        (profile,) = tmp_path.glob("*.safetensors")
        assert load_profile(profile).samples[2].tolist() == measured
        assert calibration(tmp_path, prompt=f"prompt {number}", sigmas=sigmas).engine.measuring is None


def test_trouble_in_a_sparse_step_costs_no_plan_that_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept as the warm-up gave it, and the next run of the same prompt measures nothing."""
    run, observe = calibration(tmp_path), ProfileEngine.observe

    def trouble(engine: ProfileEngine, call: Call, sigma: float) -> object:
        if sigma < START:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return observe(engine, call, sigma)

    monkeypatch.setattr(ProfileEngine, "observe", trouble)
    assert generate(run) == [NONE, NONE, ALL, ALL]
    (plan,) = tmp_path.glob("*.json")
    assert load_plan(plan) == run.engine.planned.plan
    assert run.report().count("calibration failed") == 1
    assert calibration(tmp_path).engine.measuring is None


def test_measuring_ends_with_sparse_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds on the device may be what the model's own attention lacks."""
    run = calibration(tmp_path)
    for sigma in (1.0, 0.95):
        forward(run, sigma)

    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PlanEngine, "_attention", no_memory)
    while not run.stopped:
        forward(run, 0.6)
    assert run.engine.measuring.stopped and run.engine.measuring.engine is None


def test_in_sparse_steps_no_output_matrix_stays(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    for sigma in (1.0, 0.95):
        forward(run, sigma)
    engine = run.engine.measuring.engine
    assert engine._grams
    assert forward(run, 0.6) == ALL and 0.6 in run.engine.measuring.levels
    assert not engine._grams


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    """A forward that a kernel has spoiled: it is repeated, and its numbers count for nothing."""
    run = calibration(tmp_path)
    call = Call(0, (*GRID, 0, 0), *qkv(1))
    call.v[0, 3, 1, 5] = torch.nan
    run.engine.reason(1.0)
    assert not run.engine.measuring.wants(call, spread=True)
    assert run.engine.measuring.refused == {NOT_FINITE: 1}


@pytest.mark.parametrize(("rows", "spent", "measured"), [(64, 1.5, 0), (64, 0.95, LAYERS), (65, 1.5, LAYERS)])
def test_what_no_plan_waits_for_is_not_measured_where_it_is_slow_with_the_fewest_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, spent: float, measured: int
) -> None:
    run, now = calibration(tmp_path, steps=1), [100.0]
    measuring = run.engine.measuring
    monkeypatch.setattr(measuring_module.time, "perf_counter", lambda: now[0])
    for sigma, judging in ((1.0, 0.1), (0.97, 0.1), (0.95, spent)):
        forward(run, sigma)
        measuring.engine.profiler.rows = rows
        now[0], measuring.milliseconds = now[0] + 10, measuring.milliseconds + 1000 * judging
    forward(run, 0.6)
    assert measuring.levels.count(0.6) == measured


def test_bands_of_a_schedule() -> None:
    """They cover all noise levels; the first ends where the warm-up does, without one there is none more."""
    bands = calibration_bands(0.2, lambda part: 1 - part)
    assert [high for high, _ in bands[1:]] == pytest.approx([0.8, 0.8 * 2 / 3, 0.8 / 3], rel=1e-3)
    assert bands[0][0] == EVERY_SIGMA and bands[-1][1] == 0.0
    assert [low for _, low in bands[:-1]] == [high for high, _ in bands[1:]]
    comfyui = calibration_bands(0.0, lambda part: 999999999.9 if part == 0 else 14.6 * (1 - part) ** 7)
    assert len(comfyui) == LATER_BANDS and comfyui[0][0] == EVERY_SIGMA
