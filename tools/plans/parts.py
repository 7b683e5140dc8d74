"""What the plans of all grades share: from a pattern for each head to a plan with its card and what to expect of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sparse_vdit.kernels.patterns import Dense, Pattern, Routed
from sparse_vdit.plans.plan.card import Card
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance
from sparse_vdit.plans.plan.published import Published
from sparse_vdit.plans.search.cost import plan_speedup, step_speedup

from .measurements import mean_key_densities
from .models import DENSITIES, Part, parts_of
from .rule import Rule, stepped

DATE = "2026-11-22"  # when the rule was last changed: plans are the same on every day

Table = Sequence[Sequence[Pattern]]


def routed(share: float) -> Pattern:
    """A head with at least this share of the tiles."""
    share = stepped(share)
    return Dense() if share == 1 else Routed(share)


def keys_of(published: Published, part: Part) -> np.ndarray:
    """Measured key densities that speak for a band, (layers, heads)."""
    return mean_key_densities(DENSITIES[published.file], part.first, part.end)


def least_density(published: Published, rule: Rule) -> float:
    """Mean share of tiles that the model's heads need, without margins, bands alike."""
    return round(float(np.mean([rule.needed(keys_of(published, part)) for part in parts_of(published)])), 3)


def plan_of(
    published: Published, grade: str, tables: Sequence[Table], provenance: Provenance, card: Card, ends: Sequence[Part]
) -> Plan:
    """The plan of one table of patterns (layers, heads) for each band; densities and speed-ups are filled in."""
    used = sorted({pattern for table in tables for row in table for pattern in row}, key=_order)
    bands = tuple(
        Band(part.sigma_high, part.sigma_low, tuple(tuple(map(used.index, row)) for row in table))
        for part, table in zip(ends, tables, strict=True)
    )
    plan = Plan(published.family, *published.shape, published.grid, tuple(used), bands, grade, provenance, card)
    return _with_expectations(plan)


def _order(pattern: Pattern) -> tuple:
    """Dense first, routed ones last, by share."""
    return pattern.kind != "dense", isinstance(pattern, Routed), getattr(pattern, "share", 0.0), pattern.describe()


def _with_expectations(plan: Plan) -> Plan:
    densities = plan.pattern_densities()
    by_head = np.array([[[densities[number] for number in row] for row in band.heads] for band in plan.bands])
    attention, times = plan_speedup(plan)
    expected = {
        "mean_density": round(float(by_head.mean()), 4),
        "attention_speedup": round(attention, 3),
        "step_speedup": round(step_speedup(plan), 3),
        "times": times,
    }
    by_layer = tuple(round(float(density), 3) for density in by_head.mean((0, 2)))
    known = replace(plan.provenance, parameters={**plan.provenance.parameters, **expected})
    return replace(plan, provenance=known, card=replace(plan.card, densities=by_layer))


def rule_parameters(preset: str, rule: Rule) -> dict[str, float | str]:
    """The rule's numbers, for the provenance."""
    return {"preset": preset, "kept_mass": rule.mass, "margin_times": rule.times, "margin_added": rule.added}
