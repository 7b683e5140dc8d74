"""Types of the pack's own sockets, and what all its nodes share."""

from __future__ import annotations

from comfy_api.latest import io

from ..plans.plan.plan import Plan
from ..plans.profile.rules import DEFAULT_EPSILON, DEFAULT_LAMBDA
from ..plans.search.kept_dense import kept_dense

PlanType = io.Custom("SPARSE_VDIT_PLAN")
ProfileType = io.Custom("SPARSE_VDIT_PROFILE")
CATEGORY = "model/patch/Sparse-vDiT"


def given(plan: Plan | None) -> Plan:
    """The plan of a socket.

    Raises:
        ValueError: there is none.
    """
    if plan is None:
        raise ValueError("Load Sparse Plan found no plan here and leaves the choice to the patch node: choose a plan")
    return plan


def keep_dense_input(takes: str) -> io.String.Input:
    """What to keep dense of a plan, which the map on the node writes; `takes` says what follows it."""
    return io.String.Input(
        "keep_dense",
        default="",
        optional=True,
        advanced=True,
        tooltip="Layers and kinds of patterns to keep dense, separated by commas: 0, 3-5, skip. The map on this node "
        f"writes it. {takes}",
    )


def keeps_dense(text: str | None) -> bool | str:
    """Whether a text says what to keep dense, else why not: for `validate_inputs`, which gets None for what another
    node gives later."""
    try:
        kept_dense(text or "")
    except ValueError as error:
        return str(error)
    return True


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
