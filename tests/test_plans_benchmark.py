"""The comparison with other methods: each rule reaches its density and keeps its own condition."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch
from load_pack import ROOT
from made_up_profiles import made_up, random_errors

sys.path.append(str(ROOT / "benchmarks"))
from small_wan_runs import GRID, warmup_sigma

# by its file: a package of the pack has the same name
SPEC = importlib.util.spec_from_file_location("plans_benchmark", ROOT / "benchmarks" / "plans.py")
plans = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = plans
SPEC.loader.exec_module(plans)
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
    rules = SimpleNamespace(profile=lambda name, candidates: profile)
    plan, _, _ = next(METHODS["sta"](rules, 0.3))
    best = profile.measures["mse"][0, 1, 2, 1:].argmin() + 1
    assert plan.pattern(0, 1, 2) == profile.header.candidates[best]


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
