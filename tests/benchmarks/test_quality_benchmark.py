"""The quality benchmark: what it measures against true videos, and which patterns and plans it compares."""

import itertools

import pytest
import torch
from small_wan.sample import load_model
from small_wan.video import random_scene
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import pattern_density
from sparse_vdit.kernels.patterns import Dense, Diagonal, Skip
from sparse_vdit.plans.plan.plan import EVERY_SIGMA, uniform_plan

from benchmarks.quality.quality import ROOM, SINGLE_KINDS, Comparison, closest_patterns, without_warmup
from benchmarks.quality.small_wan_runs import GRID, KEY_TILE, MIN_STEPS, QUERY_TILE
from benchmarks.quality.truth import BLOCK, Truth, blocks, frechet_distance, held_out_loss
from benchmarks.report import tables

SCENES = [random_scene(torch.Generator().manual_seed(seed)) for seed in range(5)]


def test_frechet_distance_of_known_gaussians() -> None:
    """Of axis-aligned Gaussians it is the sum of (difference of means)^2 + (difference of deviations)^2."""
    sample = torch.randn(40_001, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = sample * torch.tensor([1.0, 2, 3, 1, 1]) + torch.tensor([0.0, 0, 0, 4, 0])
    assert frechet_distance(sample, sample) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(sample, moved) == pytest.approx(0 + 1 + 4 + 16, rel=0.03)
    assert frechet_distance(moved, sample) == pytest.approx(frechet_distance(sample, moved))


def test_frechet_distance_of_gaussians_that_lie_askew() -> None:
    """In the plane tr (AB)^1/2 = (tr AB + 2 (det AB)^1/2)^1/2."""
    sample = torch.randn(60_001, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    a, b = sample @ torch.tensor([[3.0, 1], [0, 0.5]]).double(), sample @ torch.tensor([[1.0, 0], [-2, 1]]).double()
    covariances = torch.cov(a.T), torch.cov(b.T)
    product = covariances[0] @ covariances[1]
    cross = (product.trace() + 2 * product.det().sqrt()).sqrt()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    expected = shift + covariances[0].trace() + covariances[1].trace() - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-6)


def test_blocks_hold_every_pixel_once() -> None:
    video = torch.arange(2 * 7 * 9 * 12 * 3).view(2, 7, 9, 12, 3).double()
    found = blocks(video)
    assert found.shape == (2 * 2 * 2 * 3, 3 * 3 * 4 * 4)  # 7 frames hold two blocks of three, 9 rows two of four
    assert found.unique().numel() == found.numel()
    first = video[0, : BLOCK[0], : BLOCK[1], : BLOCK[2]].reshape(-1)
    assert torch.equal(found[0], first)


def test_true_videos_are_nearest_to_the_truth() -> None:
    truth = Truth(SCENES, torch.zeros(len(SCENES), 9, 44, 52, 3))
    video, floor = truth.others, truth.floor()
    worse = {
        "noisy": video + 0.05 * torch.randn(video.shape, generator=torch.Generator().manual_seed(2)),
        "flickering": video * (1 + 0.2 * (torch.arange(9) % 2))[:, None, None, None],
        "frozen": video[:, :1].expand_as(video),
    }
    distances = {name: truth.distance(other) for name, other in worse.items()}
    assert min(distances.values()) > 1.5 * floor, (distances, floor)


def test_loss_on_true_videos_notices_what_a_plan_takes_away() -> None:
    model, grid = load_model(), (5, 6, 7)

    def loss(pattern: object) -> float:
        plan = uniform_plan("wan", 4, 3, 128, grid, pattern)
        return held_out_loss(model, plan, 2, grid=grid)

    dense = held_out_loss(model, None, 2, grid=grid)
    assert loss(Dense()) == pytest.approx(dense)
    assert dense < loss(Diagonal(0)) < loss(Skip())


@pytest.mark.parametrize("density", [0.2, 0.35, 0.5])
def test_single_patterns_are_at_least_as_dense_as_the_plan(density: float) -> None:
    kinds = list(dict.fromkeys(pattern.kind for pattern, _ in closest_patterns(density, 10_000)))
    assert len(kinds) >= 3 and kinds == [kind for kind in SINGLE_KINDS if kind in kinds]
    for most in (2, 3):
        assert [pattern.kind for pattern, _ in closest_patterns(density, most)] == kinds[:most]
    for pattern, stated in closest_patterns(density, 10_000):
        assert stated == pattern_density(pattern, TokenGrid(*GRID), QUERY_TILE, KEY_TILE)
        assert density - 0.002 <= stated <= density + ROOM


def test_without_warm_up_the_first_band_begins_at_once() -> None:
    plan = uniform_plan("wan", 4, 3, 128, GRID, Diagonal(0), sigma_high=0.8)
    assert plan.band_at(0.99) is None
    assert without_warmup(plan).band_at(EVERY_SIGMA - 1) == 0
    assert without_warmup(plan).density() == plan.density()


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return Comparison(prompts=1, steps=MIN_STEPS, device="cpu")


@pytest.mark.slow
def test_an_all_dense_plan_is_the_dense_video(comparison: Comparison) -> None:
    truth, dense = comparison.rows[:2]
    assert dense["frechet"] > truth["frechet"] > 0
    row = comparison.measure(uniform_plan("wan", 4, 3, 128, GRID, Dense()), "uniform", "dense")
    assert (row["density"], row["ssim"], row["flicker"]) == (1, 1, 0)
    assert row["psnr"] > 99
    assert (row["frechet"], row["loss"]) == (dense["frechet"], dense["loss"])


@pytest.mark.slow
def test_the_sparser_a_plan_the_farther_its_video(comparison: Comparison) -> None:
    plans = {p: uniform_plan("wan", 4, 3, 128, GRID, p) for p in (Diagonal(2), Diagonal(1), Diagonal(0))}
    rows = [comparison.measure(plan, "uniform", pattern.describe()) for pattern, plan in plans.items()]
    for better, worse in itertools.pairwise(rows):
        assert better["psnr"] > worse["psnr"] and better["ssim"] > worse["ssim"]
        assert better["loss"] < worse["loss"] and better["flicker"] < worse["flicker"]
    for row, pattern in zip(rows, plans, strict=True):
        stated = pattern_density(pattern, TokenGrid(*GRID), QUERY_TILE, KEY_TILE)
        assert row["density"] == pytest.approx(stated, abs=1e-4)


def test_the_table_shows_the_best_single_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = {"grid": [9, 12, 15], "steps": 11, "prompts": 5, "ssim": 0.9, "flicker": 0.01, "frechet": 1.0, "loss": 0.1}
    rows = [
        {"method": "uniform" if psnr in (21.3, 23.4, 22.5) else "ours_budget", "rule": f"rule {psnr}", "psnr": psnr,
         "warmup": 0.0 if psnr == 20.1 else 0.2, "density": psnr / 100} | shared
        for psnr in (27.6, 21.3, 23.4, 22.5, 28.7, 20.1)
    ]  # fmt: skip
    found = {"rows": rows, "command": "python a.py", "device": "cpu", "date": "2026-01-01"}
    monkeypatch.setattr(tables, "newest", lambda *names: found)
    table = tables.quality_table()
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[2] for line in lines] == ["27.6", "23.4", "28.7", "20.1"]
    assert "best of 3 single patterns" in lines[1] and "rule 23.4" in lines[1]
    assert "searched for the density of that single pattern" in lines[2]
    assert "from the first step on" in lines[3]
    assert "Mean of 5 prompts" in table and "9x12x15 tokens, 11 steps, the first 20% dense" in table
    assert table.endswith("`python a.py`, cpu, 2026-01-01.")
