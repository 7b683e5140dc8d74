"""Socket types of the pack, and inputs that several nodes share."""

from __future__ import annotations

from comfy_api.latest import io

from ..plans.plan.plan import Plan
from ..plans.plan.presets import PRESETS
from ..plans.profile.rules import DEFAULT_EPSILON, DEFAULT_LAMBDA

PlanType = io.Custom("SPARSE_VDIT_PLAN")
ProfileType = io.Custom("SPARSE_VDIT_PROFILE")
CATEGORY = "model/patch/Sparse-vDiT"
PRESET_TOOLTIP = "The error of attention that a plan aims at. " + " ".join(
    f"{name}: {PRESETS[name]:.1%}, {words}."
    for name, words in (("faithful", "closest to dense"), ("balanced", "for most uses"), ("fast", "the fastest"))
)


def given(plan: Plan | None) -> Plan:
    """The plan of a socket.

    Raises:
        ValueError: there is none.
    """
    if plan is None:
        raise ValueError("Load Sparse Plan found no plan here: choose a plan there")
    return plan


def paper_inputs() -> list[io.Float.Input]:
    """Lambda and epsilon of the paper's rule, Eq. 2 and 3."""
    return [
        io.Float.Input(
            "lam",
            display_name="lambda",
            default=DEFAULT_LAMBDA,
            min=0.0,
            max=10.0,
            step=0.05,
            tooltip="Weight of the saved computation against the error (lambda in Eq. 2).",
        ),
        io.Float.Input(
            "epsilon",
            default=DEFAULT_EPSILON,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="Heads whose best pattern errs more than this stay dense (epsilon in Eq. 3).",
        ),
    ]
