"""The plan that ships for a published model: plans/<family>/<model>.<preset>.json, or one for all presets."""

from __future__ import annotations

import logging
from pathlib import Path

from ....plans.plan.binding import BoundPlan
from ....plans.plan.files import PlanError, load_plan
from ....plans.plan.plan import Plan
from .plan_names import named

LOG = logging.getLogger("sparse_vdit")
SHIPPED = Path(__file__).resolve().parents[3] / "plans"
ANY_PRESET = "calibrate"
"""Stands for the preset in names of plans that serve all of them, whose grade it is."""


def shipped_plan(
    family: str, shape: tuple[int, int, int], model: str, preset: str, root: Path = SHIPPED
) -> Plan | None:
    """Plan of a published model, by the name of its files, if it fits (layers, heads, head_dim); None without one."""
    for ending in (preset, ANY_PRESET):
        path = root / family / f"{model}.{ending}.json"
        try:
            plan = load_plan(path) if path.is_file() else None
        except (PlanError, OSError) as error:  # a damaged installation
            LOG.warning("Sparse-vDiT: the shipped plan %s cannot be used: %s", path.name, error)
            continue
        if plan is not None and BoundPlan(plan).mismatch(family, *shape) is None:
            return named(plan, f"{family}/{path.stem}")
    return None
