"""Names of plans live as long as the plans they were given to."""

from __future__ import annotations

import gc

from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.plan_choice import plan_names
from sparse_vdit.nodes.host.plan_choice.plan_names import named, plan_name
from sparse_vdit.plans.plan import Plan, uniform_plan


def plan() -> Plan:
    return uniform_plan("wan", 2, 3, 128, (5, 8, 11), Diagonal(0))


def test_of_two_equal_plans_each_keeps_its_name() -> None:
    first, second, third = named(plan(), "user/first"), named(plan(), "user/second"), named(plan(), "user/third")
    assert first == second == third
    assert [plan_name(one) for one in (first, second, third)] == ["user/first", "user/second", "user/third"]
    del first, third
    gc.collect()
    assert plan_name(second) == "user/second"


def test_the_last_name_counts_and_ends_with_its_plan() -> None:
    known = len(plan_names._names)
    made = named(named(plan(), "user/old"), "user/new")
    assert plan_name(made) == "user/new"
    del made
    gc.collect()
    assert len(plan_names._names) == known
    assert plan_name(plan()) == "uniform"
