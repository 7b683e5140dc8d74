"""What a run measures while it is sparse. Its later steps and the next run use it for their plans."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from calibrations import ALL, BANDS, GRID, HEADS, LAYERS, NONE, SIGMAS, START, calibration, forward, generate, qkv
from runs import line
from sample_plans import listing
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.nodes.host.library.found import GENERATIONS, LATER_BANDS, MAX_GENERATIONS, calibration_bands
from sparse_vdit.nodes.host.library.found_plans import ONCE_MORE, TWICE_MORE
from sparse_vdit.nodes.host.policies import measure
from sparse_vdit.nodes.host.policies.calibrate import KEPT
from sparse_vdit.nodes.host.policies.measure import NOT_FINITE_QKV
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.policies.profile import ProfilePolicy
from sparse_vdit.nodes.host.session.call import Call
from sparse_vdit.nodes.host.session.run import Run
from sparse_vdit.plans.plan.files import load_plan
from sparse_vdit.plans.plan.plan import EVERY_SIGMA
from sparse_vdit.plans.profile.profile_files import load_profile
from sparse_vdit.plans.search.search import SearchError

WORTH = measure.WORTH


@pytest.fixture(autouse=True)
def never_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine measures all the same, so that what is measured can be counted."""
    monkeypatch.setattr(measure, "WORTH", float("inf"))


def later_levels(run: Run) -> list[float]:
    """Noise levels below the warm-up that calls were measured at, in their order."""
    return [level for level in run.policy.measurement._levels if level <= START]


def samples(folder: Path) -> list[list[int]]:
    """How often each layer was measured in each band, by all runs."""
    (profile,) = folder.glob("*.safetensors")
    return load_profile(profile).samples.tolist()


def test_a_later_band_is_measured_in_its_first_step_and_searched_before_the_next(tmp_path: Path) -> None:
    """The plan of the next run knows all bands, and stays: nothing is missing."""
    sigmas = (1.0, 0.95, 0.8, 0.7, 0.6, 0.3)
    run, known = calibration(tmp_path, sigmas=sigmas), []
    for seed, sigma in enumerate(sigmas):
        assert forward(run, sigma, seed) == forward(run, sigma, seed) == (NONE if sigma > START else ALL)
        known.append(0 if run.policy.planned is None else len(run.policy.planned.plan.bands))
    assert known == [0, 0, 1, 2, 2, 2]
    assert run.policy.measurement._levels == [0.95] * LAYERS + [0.8] * LAYERS + [0.3] * LAYERS
    run.free()
    run.policy.keep()
    (plan,) = tmp_path.glob("*.json")
    assert samples(tmp_path) == [[1] * LAYERS] * 3
    assert [(band.sigma_high, band.sigma_low) for band in load_plan(plan).bands] == list(BANDS)
    assert f"for the next run kept as user/calibrated/{plan.stem}{ONCE_MORE}" in line(run)
    assert f"{KEPT}{ONCE_MORE}." in line(run) and "searched the plan 2 times in " in line(run)
    second = calibration(tmp_path, sigmas=sigmas)
    assert second.policy.measurement is None and second.policy.planned.plan == load_plan(plan)
    generate(second, sigmas)
    assert "same seed" not in line(second)


def test_a_plan_that_cannot_be_searched_again_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sigmas = (1.0, 0.8, 0.7, 0.6)
    run = calibration(tmp_path, sigmas=sigmas)
    for sigma in sigmas[:2]:
        forward(run, sigma)
    planned = run.policy.planned

    def none(*_: object) -> None:
        raise SearchError("nothing fits")

    monkeypatch.setattr(run.policy.keeper, "search", none)
    assert forward(run, 0.7) == forward(run, 0.6) == ALL
    assert run.policy.planned is planned
    assert line(run).count("no plan was found: nothing fits") == 1


def test_progress_is_told_once_for_each_layer(tmp_path: Path) -> None:
    """And not when later bands are measured."""
    sigmas, told = (1.0, 0.99, 0.5, 0.3), []
    run = calibration(tmp_path, sigmas=sigmas)
    run.policy.measurement.progress = lambda done, of: told.append((done, of))
    assert generate(run, sigmas) == [NONE] * 2 + [ALL] * 2
    assert told == [(number, LAYERS) for number in range(1, LAYERS + 1)]


def test_the_second_generation_adds_what_is_missing_and_the_third_has_the_final_plan(tmp_path: Path) -> None:
    """From the third on it is the same plan, and nothing is measured."""
    first = calibration(tmp_path)
    assert generate(first, SIGMAS[:3]) == [NONE, NONE, ALL]  # as if it was interrupted
    missing = [[layer for layer in range(LAYERS) if not band[layer]] for band in samples(tmp_path)]
    assert any(missing[1:]) and TWICE_MORE in line(first)
    second = calibration(tmp_path)
    assert generate(second) == [NONE, NONE, ALL, ALL]
    assert len(later_levels(second)) == sum(map(len, missing[1:]))
    assert all(all(band) for band in samples(tmp_path))
    assert [max(band) for band in samples(tmp_path)[1:]] == [1, 1], "what was known was measured again"
    (profile,), (path,) = tmp_path.glob("*.safetensors"), tmp_path.glob("*.json")
    assert load_profile(profile).header.parameters[GENERATIONS] == MAX_GENERATIONS == 2
    plan, before = load_plan(path), listing(tmp_path)
    for _ in range(2):
        run = calibration(tmp_path)
        assert run.policy.measurement is None
        assert generate(run) == [NONE, NONE, ALL, ALL]
        assert run.policy.planned.plan == plan
        assert "measured" not in line(run).split("no plan connected")[1]
        assert ONCE_MORE not in line(run)
        assert listing(tmp_path) == before


def test_after_the_second_generation_the_plan_stays_though_something_is_missing(tmp_path: Path) -> None:
    """A sampler that leaves out the last steps."""
    for measured in (True, True, False):
        run = calibration(tmp_path)
        assert (run.policy.measurement is not None) == measured
        generate(run, SIGMAS[:3])
        assert samples(tmp_path) == [[1] * LAYERS, [1] * LAYERS, [0] * LAYERS]


def test_nothing_more_is_measured_where_no_noise_level_of_the_run_lacks_a_layer(tmp_path: Path) -> None:
    sigmas = (1.0, 0.95, 0.8, 0.7, 0.6)
    generate(calibration(tmp_path, sigmas=sigmas), sigmas)
    assert samples(tmp_path)[1:] == [[1] * LAYERS, [0] * LAYERS]
    assert calibration(tmp_path, sigmas=sigmas).policy.measurement is None
    assert calibration(tmp_path, sigmas=SIGMAS).policy.measurement is not None  # it goes below


def test_trouble_in_a_sparse_step_costs_no_plan_that_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept as the warm-up gave it, and the next run measures what is missing."""
    run, observe = calibration(tmp_path), ProfilePolicy.observe

    def trouble(policy: ProfilePolicy, call: Call, sigma: float) -> object:
        if sigma < START:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return observe(policy, call, sigma)

    monkeypatch.setattr(ProfilePolicy, "observe", trouble)
    assert generate(run) == [NONE, NONE, ALL, ALL]
    (plan,) = tmp_path.glob("*.json")
    assert load_plan(plan) == run.policy.planned.plan
    assert line(run).count("calibration failed") == 1
    monkeypatch.undo()
    assert calibration(tmp_path).policy.measurement is not None


def test_measuring_ends_with_sparse_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds on the device may be what the model's own attention lacks."""
    run = calibration(tmp_path)
    for sigma in (1.0, 0.95):
        forward(run, sigma)

    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PlanPolicy, "decide", no_memory)
    assert forward(run, 0.6) == NONE
    assert run.stopped is not None
    assert not run.policy.measurement.active and run.policy.measurement.policy is None


def test_in_sparse_steps_no_output_matrix_stays(tmp_path: Path) -> None:
    run = calibration(tmp_path)
    for sigma in (1.0, 0.95):
        forward(run, sigma)
    profiling = run.policy.measurement.policy
    assert profiling._grams
    assert forward(run, 0.6) == ALL and later_levels(run)
    assert not profiling._grams


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    """A forward that a kernel has spoiled: it is repeated, and its numbers count for nothing."""
    run = calibration(tmp_path)
    call = Call(0, TokenGrid(*GRID), *(x.unflatten(-1, (HEADS, 128)) for x in qkv(1)))
    call.v[0, 3, 1, 5] = torch.nan
    run.policy.begin_step(0.95)
    assert not run.policy.take(call)
    assert f"1 left out: {NOT_FINITE_QKV}" in run.policy.measurement.summary()


@pytest.mark.parametrize(("rows", "spent", "measured"), [(64, 5.1, 0), (64, 4.9, LAYERS), (65, 5.1, LAYERS)])
def test_what_no_plan_waits_for_is_not_measured_where_it_is_slow_with_the_fewest_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, spent: float, measured: int
) -> None:
    run, now = calibration(tmp_path), [100.0]
    measurement = run.policy.measurement
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(measure, "WORTH", WORTH)
    for sigma, judging in ((1.0, 0.1), (0.97, 0.1), (0.95, spent)):
        forward(run, sigma)
        measurement.policy.profiler.rows = rows
        now[0], measurement.milliseconds = now[0] + 10, measurement.milliseconds + 1000 * judging
    forward(run, 0.6)
    assert later_levels(run).count(0.6) == measured


def test_bands_of_a_schedule() -> None:
    """They cover all noise levels; the first ends where the warm-up does, without one there is none more."""
    bands = calibration_bands(0.2, lambda part: 1 - part)
    assert [high for high, _ in bands[1:]] == pytest.approx([0.8, 0.8 * 2 / 3, 0.8 / 3], rel=1e-3)
    assert bands[0][0] == EVERY_SIGMA and bands[-1][1] == 0.0
    assert [low for _, low in bands[:-1]] == [high for high, _ in bands[1:]]
    comfyui = calibration_bands(0.0, lambda part: 999999999.9 if part == 0 else 14.6 * (1 - part) ** 7)
    assert len(comfyui) == LATER_BANDS and comfyui[0][0] == EVERY_SIGMA
