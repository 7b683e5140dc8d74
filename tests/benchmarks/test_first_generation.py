"""The benchmark of first generations: what is measured when, which plan runs, and the gaps of its rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_wan.model import SmallWan
from small_wan.sample import sample, sigma_schedule
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Skip
from sparse_vdit.plans.plan.plan import EVERY_SIGMA

from benchmarks.quality import first_generation
from benchmarks.quality.first_generation import (
    FIRST,
    NOISE_ONLY,
    SECOND,
    FirstGeneration,
    known,
    noise_bands,
    with_gaps,
)

STEPS, LAYERS, DENSITY = 10, 2, 0.6
SIGMAS = sigma_schedule(STEPS).tolist()


@pytest.mark.parametrize(("steps", "counts"), [(20, [4, 6, 5, 5]), (12, [3, 3, 3, 3])])
def test_bands_are_the_dense_start_and_three_equal_parts_of_the_steps(steps: int, counts: list[int]) -> None:
    bands = noise_bands()
    assert (bands[0][0], bands[-1][1]) == (EVERY_SIGMA, 0.0)
    assert [low for _, low in bands[:-1]] == [high for high, _ in bands[1:]]
    sigmas = sigma_schedule(steps).tolist()[:-1]
    assert [sum(low < sigma <= high for sigma in sigmas) for high, low in bands] == counts


@pytest.fixture
def generation(monkeypatch: pytest.MonkeyPatch) -> tuple[FirstGeneration, list[tuple[float, int]], list[int]]:
    """A generation of few tokens and candidates; what it measured, and the bands of the plan at each search."""
    candidates = (Dense(), Skip(), Diagonal(0), Diagonal(1), MultiDiagonal(0.2, 0.2), MultiDiagonal(0.1, None))
    monkeypatch.setattr(first_generation, "default_candidates", lambda: candidates)
    torch.manual_seed(3)
    model = SmallWan(num_layers=LAYERS)
    run, measured, searched = FirstGeneration(model, DENSITY, SIGMAS), [], []
    observe, find = run.profiler.observe, run._find

    def observing(layer: int, sigma: float, *more: object) -> None:
        measured.append((sigma, layer))
        observe(layer, sigma, *more)

    def finding(band: int) -> None:
        find(band)
        searched.append(len(run.plan.bands))

    monkeypatch.setattr(run.profiler, "observe", observing)
    monkeypatch.setattr(run, "_find", finding)
    sample(model, torch.zeros(1, 3, 4096), (4, 8, 9), STEPS, attention=run.attention)
    return run, measured, searched


def test_layers_are_measured_in_the_last_dense_step_and_the_first_of_each_band(generation: tuple) -> None:
    run, measured, searched = generation
    firsts = [SIGMAS[1], *(next(s for s in SIGMAS if low < s <= high) for high, low in noise_bands()[1:])]
    assert measured == [(sigma, layer) for sigma in firsts for layer in range(LAYERS)]
    assert searched == [3, 3, 2, 1], "at the end of the dense start, and after the first step of each band"
    assert run.profiler.samples.tolist() == [[1] * LAYERS] * 4


def test_the_mean_density_of_the_sparse_steps_is_the_wanted_one(generation: tuple) -> None:
    run, _, _ = generation
    assert len(run.used) == STEPS - 2
    assert sum(run.used) / len(run.used) == pytest.approx(DENSITY, abs=0.05)


def test_a_layer_that_was_not_measured_in_a_band_is_as_in_the_one_above(generation: tuple) -> None:
    profile = generation[0].profiler.profile()
    samples = profile.samples.clone()
    samples[2, 1] = samples[3, 1] = 0
    filled = known(replace(profile, samples=samples), 2)
    assert filled.header.bands == tuple(noise_bands()[2:]) and filled.samples.all()
    errors, own = filled.measures["projected"], profile.measures["projected"]
    assert torch.equal(errors[:, 0], own[2:, 0])
    assert torch.equal(errors[0, 1], own[1, 1]) and torch.equal(errors[1, 1], own[1, 1])
    assert torch.equal(profile.measures["projected"], own), "the profile itself is as it was"


def test_gaps_are_to_the_second_generation_of_the_same_density() -> None:
    rows = [
        {"what": FIRST, "wanted": 0.3, "psnr": 29.0},
        {"what": SECOND, "wanted": 0.3, "psnr": 30.5},
        {"what": NOISE_ONLY, "wanted": 0.5, "psnr": 31.0},
    ]
    assert with_gaps(rows) == [{**rows[0], "gap_db": 1.5}, *rows[1:]]
