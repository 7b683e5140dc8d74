"""Targets of the search: time by measured tables and by counted FLOPs, presets, and what plans tell of them."""

import dataclasses

import pytest
import torch
from made_up_profiles import CANDIDATES, DENSITIES, brute_force, chosen, made_up, random_errors
from sparse_vdit.kernels.patterns import Routed
from sparse_vdit.plans.plan.presets import PRESETS
from sparse_vdit.plans.search.cost import FLOP_MODEL, profile_costs
from sparse_vdit.plans.search.latency import Latencies
from sparse_vdit.plans.search.search import SearchError, search_budget, search_paper


def with_routed(errors):
    """Profile whose candidate 4 is a routed head of density .3, instead of a window."""
    profile = made_up(errors)
    header = dataclasses.replace(profile.header, candidates=(*CANDIDATES[:4], Routed(0.3)))
    return dataclasses.replace(profile, header=header)


def table(routed, static=10.0):
    """Given tiles take `static` times their density, as dense attention does, chosen ones another time."""
    knots = ((0.1, 0.1 * static), (1.0, static))
    return Latencies("a card", static, 0.1, knots, ((0.3, routed),), 0.02)


def test_expensive_routed_heads_are_left_out():
    """Routed heads err the least here. Where choosing tiles is slow, windows meet the same target in less time."""
    profile = with_routed([[[[0.0, 1.0, 0.2, 0.1, 0.05]] * 5]])
    kinds = {}
    for routed in (3.0, 9.0):
        plan = search_budget(profile, speedup=3.2, costs=profile_costs(profile.header, table(routed)))
        kinds[routed] = plan.counts()["routed"]
        assert plan.provenance.parameters["times"] == "measured on a card"
        assert plan.provenance.parameters["attention_speedup"] >= 3.2
    assert kinds == {3.0: 5, 9.0: 0}
    by_error = search_budget(profile, error=0.4, costs=profile_costs(profile.header, table(9.0)))
    assert by_error.counts()["routed"] == 0
    by_density = search_budget(profile, density=0.3, costs=profile_costs(profile.header, table(9.0)))
    assert by_density.counts()["routed"] == 5  # a density is one, whatever it takes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("speedup", [1.5, 2.0, 3.5])
def test_speedup_target_is_met_with_nearly_the_least_error(seed, speedup):
    """By the FLOP model it is a density, as far as no head chooses tiles."""
    errors = random_errors(seed, bands=1, layers=2, heads=3)
    plan = search_budget(made_up(errors), speedup=speedup)
    told, choice = plan.provenance.parameters, chosen(plan)
    assert told["attention_speedup"] >= speedup - 1e-3
    assert told["attention_speedup"] == pytest.approx(6 / sum(DENSITIES[c] for c in choice.flatten()), rel=1e-3)
    assert (told["speedup"], told["times"]) == (speedup, FLOP_MODEL)
    error = torch.tensor(errors).gather(-1, choice[..., None]).sum().item()
    assert error <= brute_force(errors, 1 / speedup) + 0.15


def test_presets_are_errors_by_name():
    errors = torch.rand(1, 4, 10, len(CANDIDATES), generator=torch.Generator().manual_seed(3)) * 0.02
    errors[..., 0] = 0
    profile, times = made_up(errors.tolist()), []
    for name, error in PRESETS.items():
        plan = search_budget(profile, preset=name)
        told = plan.provenance.parameters
        assert (told["preset"], told["error"]) == (name, error)
        assert told["predicted_error"] <= error
        assert plan.bands == search_budget(profile, error=error).bands
        times.append(told["attention_speedup"])
    assert times == sorted(times) and times[0] < times[-1]


def test_targets_out_of_reach_say_what_is_possible():
    profile = made_up([[[[0.0, 1.0, 0.1, 0.1, 0.1]] * 2]])
    with pytest.raises(SearchError, match=r"speed-up 9 cannot be .* 5x7x9 tokens, the highest is 5\.0: lower it"):
        search_budget(profile, speedup=9)
    assert search_budget(profile, speedup=5).provenance.parameters["attention_speedup"] == pytest.approx(5)
    never_exact = made_up([[[[0.04, 1.0, 0.1, 0.1, 0.1]] * 2]])
    with pytest.raises(SearchError, match=r"balanced \(error 0\.055\) cannot be reached, the lowest error is 0\.2:"):
        search_budget(never_exact, preset="balanced")


def test_plans_of_all_rules_say_how_fast_and_how_dense_they_are():
    profile = made_up(random_errors(2))
    costs = profile_costs(profile.header, table(3.0))
    for plan in (search_budget(profile, error=0.5, costs=costs), search_paper(profile, costs=costs)):
        told, choice = plan.provenance.parameters, chosen(plan)
        assert told["times"] == "measured on a card"
        assert told["attention_speedup"] == pytest.approx(costs.speedup(choice), abs=1e-3)
        assert told["mean_density"] == pytest.approx(torch.tensor(DENSITIES)[choice].mean().item(), abs=1e-4)
    assert search_paper(profile).provenance.parameters["times"] == FLOP_MODEL
