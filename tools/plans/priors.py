"""Plans of grade prior: the density of every head was measured on the model, its pattern was not."""

from __future__ import annotations

from sparse_vdit.plans.plan.card import Card
from sparse_vdit.plans.plan.plan import Plan, Provenance
from sparse_vdit.plans.plan.published import Published

from .measurements import COMMITS, SVOO
from .models import parts_of
from .parts import DATE, keys_of, least_density, plan_of, routed, rule_parameters
from .rule import RULES

MEASURED = (
    "Of every head, the part of the keys that holds 95 % of the softmax mass: one prompt, {size}, all steps dense "
    "(SVOO, arXiv 2603.18636)."
)
NOT_MEASURED = (
    "Which tiles a head needs: the first generation finds patterns; where it cannot, heads choose them at each call. "
    "How many: that was carried over from keys to tiles, and from 95 % to other masses, by a small model. Speed and "
    "quality."
)


def prior(published: Published, preset: str) -> Plan:
    """Every head routed, with the share of tiles that its density gives."""
    rule = RULES[preset]
    tables = [
        [[routed(share) for share in row] for row in rule.planned(keys_of(published, part))]
        for part in parts_of(published)
    ]
    provenance = Provenance(
        model=published.name,
        rule="density of keys, to tiles, with margins",
        parameters=rule_parameters(preset, rule),
        versions=COMMITS[SVOO],
        date=DATE,
        source="SVOO's measurements of this model",
        notes=_notes(published),
    )
    measured = MEASURED.format(size=frames_of(published))
    card = Card(published.name, measured, NOT_MEASURED, least_density(published, rule))
    return plan_of(published, "prior", tables, provenance, card, parts_of(published))


def frames_of(published: Published) -> str:
    """The measured video in words."""
    return f"720x1280 of {4 * (published.grid[0] - 1) + 1} frames"


def _notes(published: Published) -> str:
    if len(parts_of(published)) == 1:
        return "One band: the densities of heads hardly change after the first fifth of the steps."
    boundary = parts_of(published)[0].sigma_low
    return f"A band for each expert; they change at noise level {boundary}, where the measured densities jump."
