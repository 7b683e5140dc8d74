"""What reports call a plan: the name it was loaded under, as it has none of its own, and what was measured of it."""

from __future__ import annotations

import weakref

from ....plans.plan.plan import Plan

FOUND = "measured while sampling"
"""Source of plans that runs have found."""

_names: dict[int, str] = {}
"""Name by identity: equal plans may have names of their own, and none loses its name when another one dies."""


def named(plan: Plan, name: str) -> Plan:
    """The same plan, its name remembered while it exists; the last name counts."""
    if id(plan) not in _names:
        weakref.finalize(plan, _names.pop, id(plan))
    _names[id(plan)] = name
    return plan


def plan_name(plan: Plan) -> str:
    """The name, or where the plan comes from."""
    return _names.get(id(plan)) or plan.provenance.rule or plan.provenance.source or plan.grade


def graded(plan: Plan) -> str:
    """The name with what was measured of the plan, for reports."""
    if plan.grade == "calibrate":  # nothing
        return plan_name(plan)
    return f"{plan_name(plan)} ({FOUND if plan.provenance.source == FOUND else plan.grade})"
