"""Names of plans live as long as the plans they were given to."""

from __future__ import annotations

import dataclasses
import gc

import pytest
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.plan_choice import plan_names
from sparse_vdit.nodes.host.plan_choice.plan_names import FOUND, graded, named, plan_name
from sparse_vdit.plans.plan.plan import Plan, Provenance, uniform_plan


def plan() -> Plan:
    return uniform_plan("wan", 2, 3, 128, (5, 8, 11), Diagonal(0))


def test_of_two_equal_plans_each_keeps_its_name() -> None:
    first, second, third = named(plan(), "user/first"), named(plan(), "user/second"), named(plan(), "user/third")
    assert first == second == third
    assert [plan_name(one) for one in (first, second, third)] == ["user/first", "user/second", "user/third"]
    del first, third
    gc.collect()
    assert plan_name(second) == "user/second"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"grade": "measured"}, "user/one (measured)"),
        ({"grade": "measured", "provenance": Provenance(source=FOUND)}, "user/one (measured while sampling)"),
        ({"grade": "prior"}, "user/one (prior)"),
        ({"grade": "calibrate"}, "user/one"),
    ],
)
def test_reports_say_what_was_measured_of_a_plan(options: dict, told: str) -> None:
    assert graded(named(dataclasses.replace(plan(), **options), "user/one")) == told


def test_the_last_name_counts_and_ends_with_its_plan() -> None:
    gc.collect()
    known = len(plan_names._names)
    made = named(named(plan(), "user/old"), "user/new")
    assert plan_name(made) == "user/new"
    del made
    gc.collect()
    assert len(plan_names._names) == known
    assert plan_name(plan()) == "uniform"
