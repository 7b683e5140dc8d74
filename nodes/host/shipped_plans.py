"""The shipped plan of a model: plans/<family>/<name>.<preset>.json whose layers and heads are the model's."""

from __future__ import annotations

from pathlib import Path

from ...plans.binding import BoundPlan
from ...plans.files import load_plan
from ...plans.plan import Plan
from .plan_names import named

SHIPPED = Path(__file__).resolve().parents[2] / "plans"


def shipped_plan(family: str, shape: tuple[int, int, int], preset: str, root: Path = SHIPPED) -> Plan | None:
    """Plan for a family, (layers, heads, head_dim) and preset; None when none is shipped."""
    for path in sorted((root / family).glob(f"*.{preset}.json")):
        plan = load_plan(path)
        if BoundPlan(plan).mismatch(family, *shape) is None:
            return named(plan, f"{family}/{path.stem}")
    return None
