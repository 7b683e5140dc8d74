"""Socket types of the pack, and inputs that several nodes share."""

from __future__ import annotations

from comfy_api.latest import io

from ..plans.plan.plan import Plan
from ..plans.plan.presets import PRESETS
from ..plans.profile.rules import DEFAULT_EPSILON, DEFAULT_LAMBDA
from .host.hooks.sampling import DEFAULT_START

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


def noise_inputs() -> list[io.Float.Input]:
    """The part of the noise schedule that a plan runs in."""
    return [
        io.Float.Input(
            "start_percent",
            default=DEFAULT_START,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the noise schedule that stays dense at the start, where the layout of the video "
            "is decided. It counts noise, not steps, so two samplers can share one schedule.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the noise schedule after which attention is dense again. 1 means never.",
        ),
    ]


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
