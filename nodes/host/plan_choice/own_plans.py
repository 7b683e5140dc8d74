"""Plans that the user has saved for a model: found by the model's numbers, which plans of measured heads hold."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from ....plans.plan.binding import BoundPlan
from ....plans.plan.files import PlanError, load_plan
from ....plans.plan.plan import Plan
from ..calibration.calibrated_plan import FINGERPRINT, measured_among
from .fingerprint import Fingerprint, read_fingerprint
from .plan_names import named, plan_name

LOG = logging.getLogger("sparse_vdit")
OWN = "no plan connected: your own of this model is used"
MOST_NAMED = 2  # files that hold no plan, in a report
MODEL = "model "
"""Begins the names of parameters that hold fingerprints: a plan of Wan 2.2 holds those of both its models."""


def told_by(known: Fingerprint | None) -> dict[str, str]:
    """A profile's parameter that says of which model it is."""
    return {} if known is None else {f"{MODEL}{known.digest}": str(known)}


def models_in(parameters: Mapping[str, object]) -> dict[str, object]:
    """Those of a profile's or a plan's parameters."""
    return {name: value for name, value in parameters.items() if name.startswith(MODEL)}


def passed_over(plan: Plan) -> str:
    """For the report, that a plan of the user's own is of another preset."""
    return f"your own plan {plan_name(plan)} is for preset {plan.provenance.parameters['preset']} and was passed over"


def unreadable(files: Mapping[str, Path]) -> list[str]:
    """For the report, which of the user's files hold no plan, the first few of them: one of this model might be meant.
    """
    found = []
    for name, path in files.items():
        try:
            plan = _loaded(path, path.stat().st_mtime_ns)
        except OSError as error:
            plan = str(error)
        if isinstance(plan, str):
            found.append(f"your own plan {name} could not be read and was passed over: {plan}")
    more = len(found) - MOST_NAMED
    return found[:MOST_NAMED] + ([f"{more} more of your own plans could not be read"] if more > 0 else [])


def own_plan(
    files: Mapping[str, Path],
    known: Fingerprint | None,
    family: str,
    shape: tuple[int, int, int],
    preset: str | None,
    sigmas: Sequence[float],
) -> Plan | None:
    """The latest plan of this very model, of this preset or of none; None where there is none.

    Args:
        files: the user's saved plans by their names.
        known: of the model; None finds nothing.
        preset: None for plans of all.
        sigmas: noise levels of the run. A plan that says nothing of them may be of Wan 2.2's other model, which in 8
            bits looks the same.
    """
    if known is None:
        return None
    found = []
    for name, path in files.items():
        try:
            changed = path.stat().st_mtime_ns
            plan = _loaded(path, changed)
        except OSError:
            continue
        covered = isinstance(plan, Plan) and any(plan.band_at(sigma) is not None for sigma in sigmas)
        if covered and _is_of(plan, known, family, shape, preset, sigmas):
            found.append((changed, name, plan))
    if not found:
        return None
    _, name, plan = max(found, key=lambda one: one[:2])
    return named(plan, name)


@lru_cache(maxsize=1024)
def _loaded(path: Path, changed: int) -> Plan | str:
    """The plan of a file as it was at a time, or why it holds none."""
    try:
        return load_plan(path)
    except PlanError as error:
        LOG.info("Sparse-vDiT: %s is passed over: %s", path.name, error)
        return str(error)


def _is_of(
    plan: Plan,
    known: Fingerprint,
    family: str,
    shape: tuple[int, int, int],
    preset: str | None,
    sigmas: Sequence[float],
) -> bool:
    parameters = plan.provenance.parameters
    if preset not in (None, parameters.get("preset", preset)) or BoundPlan(plan).mismatch(family, *shape) is not None:
        return False
    of = map(read_fingerprint, models_in(parameters).values())
    if any(one is not None and known.distance(one) <= 1 for one in of):
        return True
    # saved again by the user after it was found while sampling: as `KeptPlans` tells those
    found = read_fingerprint(parameters.get(FINGERPRINT))
    distance = math.inf if found is None else known.distance(found)
    return distance == 0 or (distance <= 1 and measured_among(plan.provenance, sigmas))
