"""Names of plans: no part of what makes plans equal, and what reports say of them."""

from __future__ import annotations

import dataclasses

import pytest
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.plans.plan.files import plan_bytes
from sparse_vdit.plans.plan.plan import FOUND, Plan, Provenance, uniform_plan


def plan() -> Plan:
    return uniform_plan("wan", 2, 3, 128, (5, 8, 11), Diagonal(0))


def test_equal_plans_of_other_names_are_equal_and_keep_them() -> None:
    first, second = plan().named("user/first"), plan().named("user/second")
    assert first == second == plan() and hash(first) == hash(second)
    assert [first.name, second.name, plan().name] == ["user/first", "user/second", ""]
    assert plan_bytes(first) == plan_bytes(plan())
    assert dataclasses.replace(first, grade="prior").name == "user/first"


@pytest.mark.parametrize(
    ("options", "title"),
    [
        ({"grade": "measured"}, "user/one (measured)"),
        ({"grade": "measured", "provenance": Provenance(source=FOUND)}, "user/one (measured while sampling)"),
        ({"grade": "prior"}, "user/one (prior)"),
        ({"grade": "calibrate"}, "user/one"),
    ],
)
def test_reports_say_what_was_measured_of_a_plan(options: dict, title: str) -> None:
    assert dataclasses.replace(plan(), **options).named("user/one").title() == title


def test_a_plan_without_a_name_is_called_by_its_rule() -> None:
    assert plan().label == "uniform" and plan().title() == "uniform"
