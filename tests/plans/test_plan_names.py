"""The name of a plan: for reports and pictures, and no part of its file nor of what makes plans equal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from sample_plans import small_plan
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.plans.plan.files import load_plan, plan_bytes, save_plan
from sparse_vdit.plans.plan.plan import FOUND, Plan, Provenance, uniform_plan


def plan() -> Plan:
    return uniform_plan("wan", 2, 3, 128, (5, 8, 11), Diagonal(0))


def test_plans_of_two_names_are_equal() -> None:
    first, second = plan().named("user/first"), plan().named("user/second")
    assert (first.name, second.name, first.named("user/new").name) == ("user/first", "user/second", "user/new")
    assert first == second == plan()
    assert hash(first) == hash(second)
    assert dataclasses.replace(first, grade="prior").name == "user/first"


def test_a_file_holds_no_name(tmp_path: Path) -> None:
    named = small_plan().named("user/mine")
    assert plan_bytes(named) == plan_bytes(small_plan())
    assert load_plan(save_plan(named, tmp_path / "mine.json")).name == ""


@pytest.mark.parametrize(
    ("name", "provenance", "label"),
    [
        ("user/mine", Provenance(rule="budget", source="elsewhere"), "user/mine"),
        ("", Provenance(rule="budget", source="elsewhere"), "budget"),
        ("", Provenance(source="elsewhere"), "elsewhere"),
        ("", Provenance(), "calibrate"),
    ],
)
def test_a_plan_without_a_name_is_told_by_where_it_comes_from(name: str, provenance: Provenance, label: str) -> None:
    assert dataclasses.replace(plan(), provenance=provenance).named(name).label == label


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
