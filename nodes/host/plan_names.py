"""Under which name a plan was loaded, for reports. A plan itself has none: it is its content."""

from __future__ import annotations

import weakref

from ...plans.plan import Plan

_names: weakref.WeakKeyDictionary[Plan, str] = weakref.WeakKeyDictionary()


def named(plan: Plan, name: str) -> Plan:
    """The same plan, its name remembered while it exists; of equal plans the last name counts."""
    _names[plan] = name
    return plan


def plan_name(plan: Plan) -> str:
    """The name, or where the plan comes from."""
    return _names.get(plan) or plan.provenance.rule or plan.provenance.source or plan.grade
