"""The comparison with other methods: each rule reaches its density and keeps its own condition."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from made_up_profiles import made_up, random_errors
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import pattern_density
from sparse_vdit.kernels.patterns import Dense
from sparse_vdit.plans.profile.profile import Profile

from benchmarks.quality import plans
from benchmarks.quality.small_wan_runs import GRID, KEY_TILE, QUERY_TILE, warmup_sigma

METHODS = plans.METHODS


def test_bisection_finds_where_a_falling_density_meets_the_wanted_one() -> None:
    assert plans.bisected(lambda x: 1 / (1 + x), 0.2, 1e-6, 1e6) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("density", [0.25, 0.4, 0.6])
def test_psa_takes_the_sparsest_within_one_limit(density: float) -> None:
    profile = made_up(random_errors(3, bands=2, layers=5, heads=7))
    alpha, choice = plans.psa_choice(profile, density)
    densities = torch.tensor(profile.header.densities)
    assert densities[choice].mean().item() == pytest.approx(density, abs=0.06)
    errors = profile.measures["relative"].sqrt()
    assert (errors.gather(-1, choice[..., None]) <= alpha).all()
    sparser = densities < densities[choice][..., None]
    assert (errors[sparser] > alpha).all()


@pytest.mark.parametrize("density", [0.15, 0.25])
def test_the_papers_lambda_gives_the_density(density: float) -> None:
    profile = made_up(random_errors(4, bands=2, layers=5, heads=7))
    rules = SimpleNamespace(profile=lambda name: profile)
    plan, rule, found = next(METHODS["ours_paper"](rules, density))
    assert found is None and f"{plans.paper_lambda(profile, density):.3g}" in rule
    uses = [profile.header.densities[profile.header.candidates.index(plan.pattern(b, layer, head))]
            for b in range(2) for layer in range(5) for head in range(7)]  # fmt: skip
    assert sum(uses) / len(uses) == pytest.approx(density, abs=0.06)


def test_a_choice_becomes_a_plan_and_attention_of_the_same_patterns() -> None:
    profile = made_up(random_errors(5, bands=2, layers=3, heads=4))
    choice = torch.randint(0, 5, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    plan = plans.chosen_plan(profile, choice)
    assert plan.pattern(1, 2, 3) == profile.header.candidates[choice[1, 2, 3]]
    seen = []
    order = SimpleNamespace(run=lambda q, k, v, patterns: seen.append(patterns))
    attention = plans.table_attention(profile, choice, order)
    attention(0.3)(2, None, None, None, GRID)
    assert seen == [tuple(profile.header.candidates[n] for n in choice[1, 2].tolist())]
    assert attention(1.5) is plans.dense_attention


def test_sta_takes_the_window_of_the_least_error() -> None:
    profile = made_up(random_errors(6, bands=1, layers=2, heads=3))
    windows = list(profile.header.candidates[2:])
    best = profile.measures["mse"][0, 1, 2, 2:].argmin() + 2
    assert plans.sta_choice(profile, windows)[0, 1, 2] == best


@pytest.mark.parametrize("density", [0.2, 0.4])
def test_sta_takes_the_size_that_comes_closest(density: float) -> None:
    """All windows of one size, that is: each head has one of five."""
    made = []

    def profile(name: str, offered: tuple) -> Profile:
        candidates = (Dense(), *offered)
        densities = [pattern_density(pattern, TokenGrid(*GRID), QUERY_TILE, KEY_TILE) for pattern in candidates]
        errors = torch.rand(1, 2, 3, len(candidates), generator=torch.Generator().manual_seed(8), dtype=torch.float64)
        plain = made_up(random_errors(6, bands=1, layers=2, heads=3))
        made.append(dataclasses.replace(
            plain, measures=dict.fromkeys(plain.measures, errors), votes=torch.zeros_like(errors),
            header=dataclasses.replace(plain.header, candidates=candidates, densities=tuple(densities)),
        ))  # fmt: skip
        return made[-1]

    plan, _, _ = next(METHODS["sta"](SimpleNamespace(profile=profile), density))
    found = {plan.pattern(0, layer, head) for layer in range(2) for head in range(3)}
    assert any(found <= set(plans.sta_windows(GRID, size / 100)) for size in plans.STA_SIZES)
    own = dict(zip(made[0].header.candidates, made[0].header.densities, strict=True))
    mean = sum(own[plan.pattern(0, layer, head)] for layer in range(2) for head in range(3)) / 6
    assert mean == pytest.approx(density, abs=0.05)


def test_online_methods_are_dense_in_the_warm_up() -> None:
    q, k, v = torch.randn(3, 1, 1620, 2, 16, generator=torch.Generator().manual_seed(0))
    for name in ("svg", "radial", "topk64"):
        attention, rule, density = next(METHODS[name](plans.Rules(None), 0.3))
        assert attention(warmup_sigma() + 0.01) is plans.dense_attention, rule
        assert density == pytest.approx(0.3, abs=0.02) or name == "radial"
        out = attention(warmup_sigma() - 0.01)(0, q, k, v, GRID)
        assert out.shape == q.shape and torch.isfinite(out).all()


def test_single_patterns_are_of_several_kinds() -> None:
    profile = made_up(random_errors(7, bands=1, layers=4, heads=3))
    found = list(METHODS["uniform"](SimpleNamespace(profile=lambda name: profile), 0.3))
    kinds = {type(plan.pattern(0, 0, 0)) for plan, _, _ in found}
    assert len(found) == len(kinds) == plans.SINGLES
