"""Which plan a run of the patch node has: the connected one, one that ships for the model, a calibrated one, or one
that the run itself has yet to find."""

from __future__ import annotations

from dataclasses import dataclass

import comfyui_version

from ...plans.binding import BoundPlan
from ...plans.candidates import default_candidates
from ...plans.cost import profile_costs
from ...plans.kept_dense import NOTHING_KEPT, KeptDense, mismatch
from ...plans.plan import Plan
from ...plans.profiler import Profiler
from ...plans.versions import installed_versions
from . import reasons
from .calibrated_model import CalibratedModel
from .calibrated_plan import BANDS, FINGERPRINT, PATCHED
from .calibration import NO_WARM_UP, CalibrationEngine, begun
from .engine import Engine
from .families import Family, describe
from .fingerprint import Fingerprint, fingerprint
from .install import pause_malloc_graph
from .kept_plans import KeptPlans
from .kernel_choice import KernelChoice
from .latencies import kept_latencies
from .measuring import Measuring
from .plan_engine import SIGMA_SLACK, PlanEngine
from .plan_folders import calibrated_folder
from .plan_names import plan_name
from .profile_engine import ProfileEngine
from .race import Race, facts
from .report import say, show_on_node, speeds_file
from .sampling import Sampling, whole_steps
from .shipped_plans import shipped_plan

FEW_STEPS = 8
"""Schedules of so few steps follow a kept plan in the warm-up too, as far as that was measured: one dense step of them
would cost most of the gain."""


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
    family, shape = sampling.family, sampling.family.shape(sampling.model)
    why = mismatch(shape[0], wishes.kept)
    if why is not None:
        return why
    plan = wishes.plan or shipped_plan(family.name, shape, wishes.preset)
    if plan is None and wishes.calibrate:
        return begun(lambda: _calibration(wishes, sampling, shape))
    reason = refusal(plan, family.name, shape)
    return reason or _plan_engine(plan, wishes, sampling, _race(wishes, family, shape))


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
        pause_malloc_graph,
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


def _calibration(wishes: Wishes, sampling: Sampling, shape: tuple[int, int, int]) -> CalibrationEngine:
    family, race = sampling.family, _race(wishes, sampling.family, shape)
    known = fingerprint(sampling.patcher, sampling.model, family)
    kept = KeptPlans(calibrated_folder(), family.name, shape, known, default_candidates(), sampling.sigmas[:-1])
    model = CalibratedModel(
        kept, wishes.preset, sampling.grid, lambda header: profile_costs(header, kept_latencies(header))
    )
    few = whole_steps(sampling.sigmas, sampling.percent_to_sigma) < FEW_STEPS + 0.5
    begin = model.measured_up_to() if few else 0.0
    start = sampling.percent_to_sigma(wishes.start_percent)
    measuring = _measuring(sampling, shape, known, start, wishes.node_id) if model.wants(sampling.prompt) else None
    engine = CalibrationEngine(
        f"{family.name}, calibrating",
        shape[:2],
        model,
        measuring,
        lambda plan: _plan_engine(plan, wishes, sampling, race, begin),
        model.plan,
        KernelChoice(race if wishes.backend == "auto" else None, pause_malloc_graph),
        start,
        sampling.percent_to_sigma(wishes.end_percent),
    )
    if begin > start and model.plan is not None:
        engine.notes.append(NO_WARM_UP)
    return engine


def _measuring(
    sampling: Sampling, shape: tuple[int, int, int], known: Fingerprint | None, start: float, node_id: str | None
) -> Measuring:
    family, model = sampling.family, sampling.model

    def engine(rows: int) -> ProfileEngine:
        with pause_malloc_graph():  # made in the first forward, whose size it hangs on
            profiler = Profiler(
                family.name,
                describe(model, family),
                *shape,
                default_candidates(),
                BANDS,
                rows=rows,
                prompts=(sampling.prompt,),
                versions={"comfyui": comfyui_version.__version__},
            )
        return ProfileEngine(profiler, model, family, pause_malloc_graph)

    steps = sum(sigma > start * (1 + SIGMA_SLACK) for sigma in sampling.sigmas[:-1])
    notes = {} if known is None else {FINGERPRINT: str(known)}
    notes[PATCHED] = len(getattr(sampling.patcher, "patches", ()))

    def progress(done: int, of: int) -> None:
        show_on_node(f"Sparse-vDiT: measuring heads, {done} of {of} layers", node_id)

    return Measuring(engine, shape[0], steps, notes, progress)
