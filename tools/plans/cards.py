"""Plans of grade calibrate: nothing of their heads was measured, so they are dense until a generation has
found patterns. They bound what may be found: never sparser than the densest of the measured models needs.
"""

from __future__ import annotations

from sparse_vdit.kernels.patterns import Dense
from sparse_vdit.plans.plan.card import Card
from sparse_vdit.plans.plan.plan import Plan, Provenance
from sparse_vdit.plans.plan.published import Published

from .measurements import COMMITS, SPARGE, never_sparse_cogvideox_2b
from .models import COGVIDEOX_2B, HUNYUAN_T2V, PRIORS, parts_of
from .parts import DATE, least_density, plan_of
from .rule import RULES

CAP = "balanced"  # the preset whose densities bound all

NOTHING = "Nothing."
NOT_MEASURED = "Densities and patterns of heads, speed and quality: the first generation measures them."
TUNED = (
    "Which heads could be sparse within an error of 6 %, in SpargeAttn's tuning (arXiv 2502.18137, 49 frames of "
    "480x720): the others, {dense} of {heads} heads, stay dense. Its thresholds are not densities, and say no more."
)


def cautious_density() -> float:
    """The largest mean need of a measured model."""
    return max(least_density(model, RULES[CAP]) for model in (HUNYUAN_T2V, *PRIORS))


def unmeasured(published: Published) -> Plan:
    """The card of a model of which nothing was measured."""
    return _card(published, Card(published.name, NOTHING, NOT_MEASURED, cautious_density()), "", {})


def cogvideox_2b() -> Plan:
    """The card of CogVideoX 2B, with the heads that its tuned thresholds leave dense."""
    dense = never_sparse_cogvideox_2b()
    kept = tuple((layer, head) for layer, row in enumerate(dense.tolist()) for head, yes in enumerate(row) if yes)
    measured = TUNED.format(dense=len(kept), heads=dense.size)
    card = Card(COGVIDEOX_2B.name, measured, NOT_MEASURED, cautious_density(), kept_dense=kept)
    return _card(COGVIDEOX_2B, card, "SpargeAttn's tuning of this model", COMMITS[SPARGE])


def _card(published: Published, card: Card, source: str, versions: dict[str, str]) -> Plan:
    provenance = Provenance(
        model=published.name,
        rule="dense until it is calibrated",
        versions=versions,
        date=DATE,
        source=source,
        notes=f"What is calibrated has a mean density of at least {card.least_density}, the need of the densest of the "
        "models that were measured.",
    )
    layers, heads, _ = published.shape
    return plan_of(published, "calibrate", [[[Dense()] * heads] * layers], provenance, card, parts_of(published))
