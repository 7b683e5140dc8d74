"""Which policy a run of the patch node gets: that of the connected plan, of one that was found for the model or ships
for it, or calibration, which has yet to find one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import comfyui_version

from ...plans.plan.binding import BoundPlan
from ...plans.plan.plan import Plan
from ...plans.plan.presets import DEFAULT_PRESET, PRESETS
from ...plans.profile.candidates import default_candidates
from ...plans.profile.profiler import Profiler
from ...plans.search.cost import profile_costs
from ...plans.search.kept_dense import NOTHING_KEPT, KeptDense, missing_layers
from .core import fallback
from .core.fallback import Dense, failed
from .hooks.sampling import Sampling, whole_steps
from .library.fingerprint import Fingerprint, fingerprint
from .library.folders import calibrated_folder
from .library.found import FINGERPRINT, PATCHED, SIGMA_SLACK, calibration_bands
from .library.found_plans import FoundPlans
from .library.latency_table import kept_latencies
from .library.shipped import shipped_plan, variant
from .library.stored import PlanStore
from .models import describe
from .policies.calibrate import CalibrationPolicy
from .policies.kernel_tuner import KernelTuner
from .policies.measure import Measurement
from .policies.plan import PlanPolicy
from .policies.profile import ProfilePolicy
from .session.call import Policy
from .ui.progress import show_progress
from .ui.report import say, show_on_node

FEW_STEPS = 8
KEEP_START, SKIP_START = "keep the dense start", "auto"
"""What schedules of at most FEW_STEPS steps do. By SKIP_START they follow a kept plan from the first step on, as far as
it was measured there. KEEP_START is the default: start_percent then means what it shows, and no video gets another
layout unasked."""


@dataclass(frozen=True)
class PatchOptions:
    """What the user set on the patch node; the names are those of its inputs."""

    plan: Plan | None
    preset: str
    start_percent: float
    end_percent: float
    backend: str
    only_if_faster: bool
    calibrate: bool
    node_id: str | None
    kept: KeptDense = NOTHING_KEPT
    few_steps: str = KEEP_START


def select_policy(options: PatchOptions, sampling: Sampling) -> Policy | Dense:
    """The run's policy, or why everything stays dense; an error on the way is a reason too."""
    try:
        return _without_plan(options, sampling) if options.plan is None else _run(options.plan, options, sampling)
    except Exception as error:
        return failed("choosing a plan", error)


def _without_plan(options: PatchOptions, sampling: Sampling) -> Policy | Dense:
    """Without a connected plan: what ships for the likest model, completed by what was found for this one."""
    likest = variant(sampling)
    shape = sampling.family.shape(sampling.model)
    shipped = None if likest is None else shipped_plan(sampling.family.name, shape, likest.file, options.preset)
    if shipped is None:
        return _run(None, options, sampling)
    return _run(shipped, options, sampling, *likest.notes(shipped, len(getattr(sampling.patcher, "patches", ()))))


def _run(plan: Plan | None, options: PatchOptions, sampling: Sampling, *notes: str) -> Policy | Dense:
    """The policy of a plan, None being one that is still to be found; a shipped one is completed where it has to be.

    Args:
        notes: for the report, why it is this plan.
    """
    completed = options.calibrate and (plan is None or (plan.card is not None and plan.grade != "measured"))
    made_for = None if plan is None else plan.provenance.parameters.get("preset")
    if options.plan is not None and options.preset != DEFAULT_PRESET and (made_for in PRESETS or not completed):
        notes = (*notes, f"preset {options.preset} ignored, a plan is connected")
    if made_for in PRESETS:  # it is no part of a file's name otherwise
        options = replace(options, preset=made_for)
    policy = _policy(plan, completed, options, sampling)
    if isinstance(policy, Dense):
        return replace(policy, reason="; ".join((policy.reason, *notes)))
    policy.notes.extend(notes)
    return policy


def _policy(plan: Plan | None, completed: bool, options: PatchOptions, sampling: Sampling) -> Policy | Dense:
    """The policy of a plan, or why it cannot run."""
    family, shape = sampling.family.name, sampling.family.shape(sampling.model)
    why = missing_layers(shape[0], options.kept)
    if why is not None:
        return Dense(why)
    unfit = None if plan is None else BoundPlan(plan).mismatch(family, *shape)
    if unfit is not None:
        return fallback.other_model(plan.label, unfit)
    if completed:
        return _calibration(options, sampling, shape, plan)
    if plan is None or (plan.card is not None and plan.grade == "calibrate"):
        return fallback.NO_PLAN
    return _plan_policy(options, sampling, _tuner(options, sampling.model), 0.0, plan)


def _tuner(options: PatchOptions, model: object) -> KernelTuner | None:
    return KernelTuner(model) if options.only_if_faster and options.backend == "auto" else None


def _plan_policy(
    options: PatchOptions, sampling: Sampling, tuner: KernelTuner | None, sigma_start: float, plan: Plan
) -> PlanPolicy:
    """`sigma_start`: noise level from which on the plan runs at the latest, above the wished one or not."""
    return PlanPolicy(
        plan,
        max(sigma_start, sampling.percent_to_sigma(options.start_percent)),
        sampling.percent_to_sigma(options.end_percent),
        options.backend,
        tuner,
        options.kept,
        lambda text: say(text, options.node_id),
    )


def _calibration(
    options: PatchOptions, sampling: Sampling, shape: tuple[int, int, int], shipped: Plan | None
) -> CalibrationPolicy:
    """`shipped`: plan of the model that is to be completed, None where none ships."""
    family, tuner = sampling.family, _tuner(options, sampling.model)
    known = fingerprint(sampling.patcher, sampling.model, family)
    end = sampling.percent_to_sigma(options.end_percent) * (1 - SIGMA_SLACK)
    sigmas = tuple(sigma for sigma in sampling.sigmas[:-1] if sigma >= end)
    store = PlanStore(calibrated_folder(), family.name, shape, known, default_candidates(), sigmas)
    plans = FoundPlans(
        store, options.preset, sampling.grid, lambda header: profile_costs(header, kept_latencies(header)), shipped
    )
    few = whole_steps(sampling.sigmas, sampling.percent_to_sigma) < FEW_STEPS + 0.5
    early = few and options.few_steps == SKIP_START
    begin = plans.measured_up_to() if early else 0.0
    start = sampling.percent_to_sigma(options.start_percent)
    policy = CalibrationPolicy(
        f"{family.name}, calibrating",
        shape[:2],
        plans,
        _measurement(options, sampling, shape, known, plans, early) if plans.wants_more() else None,
        partial(_plan_policy, options, sampling, tuner, begin),
        plans.plan,
        tuner,
        start,
        sampling.percent_to_sigma(options.end_percent),
        shipped if shipped is not None and shipped.grade == "prior" else None,
        early,
    )
    skipped = sum(start < sigma / (1 + SIGMA_SLACK) <= begin for sigma in sampling.sigmas[:-1])
    if skipped and plans.plan is not None:
        policy.remark = f"dense start skipped: {skipped} step{'s' if skipped > 1 else ''}"
    return policy


def _measurement(
    options: PatchOptions,
    sampling: Sampling,
    shape: tuple[int, int, int],
    known: Fingerprint | None,
    plans: FoundPlans,
    early: bool,
) -> Measurement:
    family, model, start = sampling.family, sampling.model, sampling.percent_to_sigma(options.start_percent)
    bands = calibration_bands(options.start_percent, sampling.percent_to_sigma)
    if plans.stored is not None:  # what is measured now is added to that
        bands = plans.stored.profile.header.bands

    def profiling(rows: int) -> ProfilePolicy:
        versions = {"comfyui": comfyui_version.__version__}
        profiler = Profiler(
            *(family.name, describe(model, family), *shape, default_candidates(), bands),
            rows=rows,
            versions=versions,
            maps=True,
        )
        return ProfilePolicy(profiler, model, family)

    # heads look otherwise at noise alone: in the last dense step, or in the first where the next run skips them
    dense = [sigma for sigma in sampling.sigmas[:-1] if sigma > start * (1 + SIGMA_SLACK)]
    begin = math.inf if early else min(dense, default=math.inf)
    notes = {} if known is None else {FINGERPRINT: str(known)}
    notes[PATCHED] = len(getattr(sampling.patcher, "patches", ()))

    def progress(done: int, of: int) -> None:
        show_on_node(f"measuring heads: {done} of {of} layers", options.node_id)
        show_progress(done, of, options.node_id)

    return Measurement(profiling, shape[0], begin, notes, progress, plans.store.sigmas, plans.known())
