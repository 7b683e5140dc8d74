"""How sparse a found plan may become: whatever the errors say, no head and no mean below the limits."""

import pytest
import torch
from made_up_profiles import DENSITIES, chosen, made_up, random_errors
from sparse_vdit.kernels.patterns import Dense, Diagonal, Routed
from sparse_vdit.plans.plan.card import Card
from sparse_vdit.plans.plan.limits import HEAD_PART, Limits, limits_of
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance
from sparse_vdit.plans.search.search import search_budget

LAYERS, HEADS = 3, 4
NONE = torch.zeros(LAYERS, HEADS, dtype=torch.float64)


def densities(plan):
    return torch.tensor(DENSITIES, dtype=torch.float64)[chosen(plan)]


@pytest.mark.parametrize("mean", [0.0, 0.31, 0.5, 0.77, 1.0])
def test_the_mean_is_kept_though_the_error_would_allow_less(mean):
    profile = made_up((0.001 * torch.tensor(random_errors(1))).tolist())
    free = densities(search_budget(profile, error=0.5)).mean().item()
    limited = search_budget(profile, error=0.5, limits=Limits(mean, NONE))
    if mean <= free:
        assert densities(limited).mean() == free
    else:  # as near as whole heads come, from below
        assert mean - 0.5 / (2 * LAYERS * HEADS) - 1e-6 <= densities(limited).mean() <= mean + 1e-6
    assert limited.provenance.parameters["least_density"] == mean


def test_more_density_lowers_the_error_that_is_told():
    profile = made_up((0.01 * torch.tensor(random_errors(2))).tolist())
    errors = [
        search_budget(profile, error=0.5, limits=Limits(mean, NONE)).provenance.parameters["predicted_error"]
        for mean in (0.0, 0.5, 0.8)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_no_head_is_sparser_than_it_may_be():
    heads = NONE.clone()
    heads[0, 1], heads[1, 2], heads[2, 3] = 0.3, 0.31, 1.0
    profile = made_up((0.001 * torch.tensor(random_errors(3))).tolist())
    found = densities(search_budget(profile, error=0.5, limits=Limits(0.0, heads)))
    assert (found >= heads - 1e-9).all()
    assert (found[:, 2, 3] == 1).all() and found.mean() < 0.5


def prior(share, other):
    patterns = (Dense(), Routed(share), Routed(other))
    bands = (Band(1.0, 0.5, ((0, 1), (2, 2), (1, 1))), Band(0.5, 0.0, ((1, 1), (2, 1), (0, 0))))
    card = Card("toy", "a", "b", 0.4, kept_dense=((1, 0),))
    return Plan("wan", 3, 2, 64, (5, 16, 16), patterns, bands, "prior", Provenance(), card)


def test_limits_of_a_prior_plan_are_parts_of_its_sparsest_band():
    plan = prior(0.3, 0.5)
    limits, own = limits_of(plan), plan.pattern_densities()
    expected = [[own[1], own[1]], [2.0, own[1]], [own[1], own[1]]]
    assert limits.mean == 0.4
    assert torch.allclose(limits.heads, HEAD_PART * torch.tensor(expected, dtype=torch.float64))


def test_only_plans_with_a_card_limit():
    plan = prior(0.3, 0.5)
    assert limits_of(Plan(**{**vars(plan), "card": None})) is None
    card = limits_of(Plan(**{**vars(plan), "grade": "calibrate"}))
    assert card.heads.tolist() == [[0, 0], [1, 0], [0, 0]]


def test_a_found_plan_beside_a_window_that_is_too_small():
    """Diagonal(0) is the sparsest candidate: with a limit above its density another one is taken."""
    errors = [[[[0.0, 1.0, 1e-6, 1e-6, 1.0]]]]
    free = search_budget(made_up(errors), error=0.5)
    limited = search_budget(made_up(errors), error=0.5, limits=Limits(0.0, torch.full((1, 1), 0.3)))
    assert free.patterns == (Diagonal(0),) and limited.patterns == (Diagonal(1),)
