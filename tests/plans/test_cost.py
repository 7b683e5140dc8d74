"""What candidates cost: counted FLOPs, measured times, and the speed-ups that follow for layers and steps."""

import dataclasses
import math

import pytest
import torch
from sample_plans import small_plan
from sparse_vdit.kernels.patterns import Dense, Diagonal, Routed, Skip
from sparse_vdit.plans.plan.plan import Provenance, uniform_plan
from sparse_vdit.plans.profile.profile import ProfileHeader
from sparse_vdit.plans.search.cost import (
    FLOP_MODEL,
    HeadCosts,
    attention_share,
    flop_costs,
    plan_speedup,
    profile_costs,
    step_speedup,
)
from sparse_vdit.plans.search.latency import Latencies

TABLE = Latencies("a card", 12.0, 0.25, ((0.1, 2.0), (1.0, 11.0)), ((0.1, 5.0), (0.5, 9.0)), 0.03)


def test_flops_are_those_of_the_kept_pairs_and_of_choosing():
    """1,001 tokens in 7 x 15 whole tiles, against a count product by product."""
    tokens, dim, share = 1001, 24, 0.3
    found = flop_costs((Dense(), Skip(), Routed(share)), (1.0, 0.0, share), tokens, dim, 128, 64)
    assert found.dense == found.candidates[0] == 2 * (2 * tokens * tokens * dim)  # q k^T and p v
    assert found.candidates[1] == 0
    means = 2 * tokens * dim  # of q and of k
    assert found.candidates[2] == pytest.approx(share * found.dense + means + 2 * 7 * 15 * dim)
    assert found.times == FLOP_MODEL


def test_a_profile_is_priced_by_its_table():
    candidates = (Dense(), Skip(), Diagonal(0), Routed(0.3))
    head = ProfileHeader("wan", "made up", 2, 3, 24, (5, 7, 9), 32, 16, candidates, (1.0, 0.0, 0.4, 0.3), ((1.0, 0.0),))
    found = profile_costs(head, TABLE)
    assert found.candidates.tolist() == pytest.approx([12.0, 0.25, 5.0, 7.0])
    assert found.relative.tolist() == pytest.approx([1.0, 0.25 / 12, 5 / 12, 7 / 12])
    assert found.times == "measured on a card"
    slow = dataclasses.replace(TABLE, static_knots=((0.1, 2.0), (1.0, 20.0)))
    assert profile_costs(head, slow).candidates[0] == 20  # a dense head beside sparse ones runs in their kernel
    assert profile_costs(head).times == FLOP_MODEL


def test_layers_that_are_not_faster_run_as_the_model_does():
    costs = HeadCosts(torch.tensor([12.0, 30.0, 3.0], dtype=torch.float64), 10.0, "measured")
    assert costs.speedup(torch.tensor([[[2, 2]]])) == pytest.approx(10 / 3)
    assert costs.speedup(torch.tensor([[[0, 0], [1, 0]]])) == 1.0
    assert costs.speedup(torch.tensor([[[2, 2], [1, 1]]])) == pytest.approx(2 / 1.3)


def test_plans_tell_their_speedup_or_it_is_counted():
    diagonal = uniform_plan("wan", 2, 3, 128, (9, 16, 16), Diagonal(0))
    found, times = plan_speedup(diagonal)
    assert found == pytest.approx(9, rel=0.02)  # a tile holds half a frame, and text there is none
    assert times == FLOP_MODEL
    told = Provenance(parameters={"attention_speedup": 2.5, "times": "measured on a card"})
    assert plan_speedup(dataclasses.replace(diagonal, provenance=told)) == (2.5, "measured on a card")


@pytest.mark.parametrize(
    "parameters",
    [{"attention_speedup": "2.5", "times": "x"}, {"attention_speedup": 0, "times": "x"},
     {"attention_speedup": -3.0, "times": "x"}, {"attention_speedup": 3.0}, {"attention_speedup": 3.0, "times": 4}],
    ids=str,
)  # fmt: skip
def test_what_a_plan_of_others_says_is_not_believed_blindly(parameters):
    plan = small_plan(provenance=Provenance(parameters=parameters))
    assert plan_speedup(plan) == plan_speedup(small_plan(provenance=Provenance()))


def test_a_step_gains_what_attention_takes_of_it():
    """Wan 14B at 720p and 81 frames, counted map by map: 8 d^2 for q, k, v and o, 16 d^2 for a block's two others."""
    plan = uniform_plan("wan", 40, 40, 128, (21, 45, 80), Diagonal(0))
    tokens, width = 75600, 5120
    attention, rest = 4 * tokens**2 * width, 24 * tokens * width**2
    assert attention_share(plan) == pytest.approx(attention / (attention + rest))
    told = Provenance(parameters={"attention_speedup": 3.0, "times": "x"})
    faster = step_speedup(dataclasses.replace(plan, provenance=told))
    assert faster == pytest.approx((attention + rest) / (attention / 3 + rest))
    assert 1 < faster < 3 and math.isfinite(faster)
