"""Which plan a run of the patch node has: the connected one, the user's own for this very model, one that ships for the
model, a calibrated one, or one that the run itself has yet to find."""

from __future__ import annotations

from dataclasses import dataclass, replace

import comfyui_version

from ....plans.plan.binding import BoundPlan
from ....plans.plan.plan import Plan
from ....plans.plan.presets import DEFAULT_PRESET, PRESETS
from ....plans.plan.versions import installed_versions
from ....plans.profile.candidates import default_candidates
from ....plans.profile.profiler import Profiler
from ....plans.search.cost import profile_costs
from ....plans.search.kept_dense import NOTHING_KEPT, KeptDense, kept_of, mismatch
from ..calibration.calibrated_model import CalibratedModel
from ..calibration.calibrated_plan import FINGERPRINT, PATCHED, calibration_bands
from ..calibration.calibration import NO_WARM_UP, CalibrationEngine, begun
from ..calibration.kept_plans import KeptPlans
from ..calibration.measuring import Measuring
from ..families import Family, describe
from ..reports import reasons
from ..reports.progress import show_progress
from ..reports.report import say, show_on_node, speeds_file
from ..runs.engine import Engine
from ..runs.plan_engine import SIGMA_SLACK, PlanEngine
from ..runs.profile_engine import ProfileEngine
from ..runs.sampling import DEFAULT_START, Sampling, whole_steps
from ..speed.kernel_choice import KernelChoice
from ..speed.latencies import kept_latencies
from ..speed.race import Race, facts
from .fingerprint import Fingerprint, fingerprint
from .own_plans import OWN, own_plan, passed_over, unreadable
from .plan_folders import calibrated_folder, saved_plans
from .plan_names import plan_name
from .shipped_plans import shipped_plan
from .variants import variant

FEW_STEPS = 8
"""Schedules of so few steps follow a kept plan in the warm-up too, as far as that was measured: one dense step of them
would cost most of the gain. Users who want it all the same set start_percent above the default."""


@dataclass(frozen=True)
class Wishes:
    """What the patch node was told; the names are those of its inputs."""

    plan: Plan | None
    preset: str
    start_percent: float
    end_percent: float
    backend: str
    only_if_faster: bool
    calibrate: bool
    node_id: str | None
    kept: KeptDense = NOTHING_KEPT


def choose(wishes: Wishes, sampling: Sampling) -> Engine | str:
    """The run's engine, or why everything stays dense."""
    if wishes.plan is not None:
        return _run(wishes.plan, wishes, sampling)
    return begun(lambda: _found(wishes, sampling))


def _found(wishes: Wishes, sampling: Sampling) -> Engine | str:
    """Without a connected plan: the user's own of this very model, else what ships for its likest."""
    family, shape = sampling.family.name, sampling.family.shape(sampling.model)
    known, saved = fingerprint(sampling.patcher, sampling.model, sampling.family), saved_plans()
    own = own_plan(saved, known, family, shape, wishes.preset, sampling.sigmas)
    if own is not None:
        return _run(own, wishes, sampling, OWN)
    other = own_plan(saved, known, family, shape, None, sampling.sigmas)
    notes = [*unreadable(saved), *([] if other is None else [passed_over(other)])]
    likest = variant(sampling)
    shipped = None if likest is None else shipped_plan(family, shape, likest.file, wishes.preset)
    if shipped is None:
        return _run(None, wishes, sampling, *notes)
    told = likest.notes(shipped, len(getattr(sampling.patcher, "patches", ())))
    return _run(shipped, wishes, sampling, *notes, *told)


def _run(plan: Plan | None, wishes: Wishes, sampling: Sampling, *notes: str) -> Engine | str:
    """The engine of a plan, None being one that is still to be found; a shipped one is completed where it has to be.

    Args:
        notes: for the report, why it is this plan.
    """
    if plan is not None and plan.card is not None:
        wishes = replace(wishes, kept=wishes.kept | kept_of(plan))
    completed = wishes.calibrate and (plan is None or (plan.card is not None and plan.grade != "measured"))
    made_for = None if plan is None else plan.provenance.parameters.get("preset")
    if wishes.plan is not None and wishes.preset != DEFAULT_PRESET and (made_for in PRESETS or not completed):
        notes = (*notes, f"preset {wishes.preset} ignored, a plan is connected")
    if made_for in PRESETS:  # it is no part of a file's name otherwise
        wishes = replace(wishes, preset=made_for)
    engine = _engine(plan, completed, wishes, sampling)
    if isinstance(engine, str):
        return "; ".join((engine, *notes))
    engine.notes.extend(notes)
    return engine


def _engine(plan: Plan | None, completed: bool, wishes: Wishes, sampling: Sampling) -> Engine | str:
    """The engine of a plan, or why it cannot run."""
    family, shape = sampling.family, sampling.family.shape(sampling.model)
    reason = mismatch(shape[0], wishes.kept) or (None if plan is None else refusal(plan, family.name, shape))
    if reason is not None:
        return reason
    if completed:
        return begun(lambda: _calibration(wishes, sampling, shape, plan))
    if plan is None or (plan.card is not None and plan.grade == "calibrate"):
        return reasons.NO_PLAN
    return _plan_engine(plan, wishes, sampling, _race(wishes, family, shape))


def refusal(plan: Plan | None, family: str, shape: tuple[int, int, int]) -> str | None:
    """Why a plan cannot run on a model of (layers, heads, head_dim), None when it can."""
    if plan is None:
        return reasons.NO_PLAN
    mismatch = BoundPlan(plan).mismatch(family, *shape)
    return mismatch and reasons.other_model(plan_name(plan), mismatch)


def _plan_engine(
    plan: Plan, wishes: Wishes, sampling: Sampling, race: Race | None, sigma_start: float = 0.0
) -> PlanEngine:
    """`sigma_start`: noise level from which on the plan runs at the latest, above the wished one or not."""
    return PlanEngine(
        plan,
        max(sigma_start, sampling.percent_to_sigma(wishes.start_percent)),
        sampling.percent_to_sigma(wishes.end_percent),
        wishes.backend,
        lambda text: say(text, wishes.node_id),
        race,
        wishes.kept,
    )


def _race(wishes: Wishes, family: Family, shape: tuple[int, int, int]) -> Race | None:
    """What speed hangs on, beside the call and the device."""
    if not wishes.only_if_faster:
        return None
    layers, heads, head_dim = shape
    versions = {name: version for name, version in installed_versions().items() if name != "python"}
    return Race(facts({"model": f"{family.name} {layers} x {heads} x {head_dim}", **versions}), speeds_file())


def _calibration(
    wishes: Wishes, sampling: Sampling, shape: tuple[int, int, int], shipped: Plan | None
) -> CalibrationEngine:
    """`shipped`: plan of the model that is to be completed, None where none ships."""
    family, race = sampling.family, _race(wishes, sampling.family, shape)
    known = fingerprint(sampling.patcher, sampling.model, family)
    kept = KeptPlans(calibrated_folder(), family.name, shape, known, default_candidates(), sampling.sigmas[:-1])
    model = CalibratedModel(
        kept, wishes.preset, sampling.grid, lambda header: profile_costs(header, kept_latencies(header)), shipped
    )
    few = whole_steps(sampling.sigmas, sampling.percent_to_sigma) < FEW_STEPS + 0.5
    begin = model.measured_up_to() if few and wishes.start_percent <= DEFAULT_START else 0.0
    start = sampling.percent_to_sigma(wishes.start_percent)
    measuring = _measuring(sampling, shape, known, model, wishes) if model.wants(sampling.prompt) else None
    engine = CalibrationEngine(
        f"{family.name}, calibrating",
        shape[:2],
        model,
        measuring,
        lambda plan: _plan_engine(plan, wishes, sampling, race, begin),
        model.plan,
        KernelChoice(race if wishes.backend == "auto" else None),
        start,
        sampling.percent_to_sigma(wishes.end_percent),
        shipped if shipped is not None and shipped.grade == "prior" else None,
    )
    if begin > start and model.plan is not None:
        engine.notes.append(NO_WARM_UP)
    return engine


def _measuring(
    sampling: Sampling, shape: tuple[int, int, int], known: Fingerprint | None, kept: CalibratedModel, wishes: Wishes
) -> Measuring:
    family, model, start = sampling.family, sampling.model, sampling.percent_to_sigma(wishes.start_percent)
    bands = calibration_bands(wishes.start_percent, sampling.percent_to_sigma)
    if kept.found is not None:  # what is measured now is added to that
        bands = kept.found.profile.header.bands

    def engine(rows: int) -> ProfileEngine:
        profiler = Profiler(
            family.name,
            describe(model, family),
            *shape,
            default_candidates(),
            bands,
            rows=rows,
            prompts=(sampling.prompt,),
            versions={"comfyui": comfyui_version.__version__},
            maps=True,
        )
        return ProfileEngine(profiler, model, family)

    dense = sum(sigma > start * (1 + SIGMA_SLACK) for sigma in sampling.sigmas[:-1])
    end = sampling.percent_to_sigma(wishes.end_percent) * (1 - SIGMA_SLACK)
    later = [sigma for sigma in sampling.sigmas[dense:-1] if sigma >= end]
    notes = {} if known is None else {FINGERPRINT: str(known)}
    notes[PATCHED] = len(getattr(sampling.patcher, "patches", ()))

    def progress(done: int, of: int) -> None:
        show_on_node(f"Sparse-vDiT: measuring heads, {done} of {of} layers", wishes.node_id)
        show_progress(done, of, wishes.node_id)

    return Measuring(engine, shape[0], dense, notes, progress, later, kept.known())
