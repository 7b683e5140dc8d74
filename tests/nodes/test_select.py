"""Which policy a run of the patch node gets, and why it stays dense where it gets none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from calibrations import CANDIDATES, GRID, HEADS, KNOWN, LAYERS, SIGMAS, calibration, generate, toy
from comfyui_stand_ins import host_module
from model_stand_ins import wan
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.fallback import Dense
from sparse_vdit.nodes.host.hooks.sampling import DEFAULT_START, Sampling
from sparse_vdit.nodes.host.models import WAN
from sparse_vdit.nodes.host.policies.calibrate import CalibrationPolicy
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.plans.plan.plan import Plan, Provenance, uniform_plan
from sparse_vdit.plans.plan.presets import DEFAULT_PRESET
from sparse_vdit.plans.search.kept_dense import kept_dense

select = host_module("select")
MANY = tuple(1 - step / 20 for step in range(21))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where plans of the toy model are kept; its candidates are few."""
    monkeypatch.setattr(select, "calibrated_folder", lambda: tmp_path)
    monkeypatch.setattr(select, "default_candidates", lambda: CANDIDATES)
    monkeypatch.setattr(select, "fingerprint", lambda *args: KNOWN)
    monkeypatch.setattr(select, "kept_latencies", lambda header: None)
    return tmp_path


def sampling(layers: int = LAYERS, heads: int = HEADS, sigmas: tuple[float, ...] = MANY) -> Sampling:
    """A whole schedule in which noise falls evenly."""
    schedule = SimpleNamespace(percent_to_sigma=lambda percent: 1 - percent)
    patcher = SimpleNamespace(get_model_object=lambda name: schedule, patches={})
    return Sampling(patcher, wan(layers, heads), WAN, sigmas, GRID)


def options(plan: Plan | None = None, **changes: object) -> object:
    """Of the patch node as it is placed, with changes."""
    made = select.PatchOptions(plan, DEFAULT_PRESET, DEFAULT_START, 1.0, "auto", True, True, None)
    return replace(made, **changes)


def plan_of(**changes: object) -> Plan:
    return replace(uniform_plan("wan", LAYERS, HEADS, 128, GRID, Diagonal(0)), grade="measured", **changes)


def test_a_connected_plan_runs_between_the_noise_levels_that_are_set() -> None:
    plan = plan_of().named("user/mine")
    policy = select.select_policy(options(plan, end_percent=0.9, kept=kept_dense("1")), sampling())
    assert isinstance(policy, PlanPolicy)
    assert (policy.whole, policy.title) == (plan, "wan, plan user/mine (measured)")
    assert (policy.sigma_start, policy.sigma_end) == pytest.approx((1 - DEFAULT_START, 0.1))
    assert policy.plan != plan and str(policy.kept) == "1"
    assert policy.notes == []


@pytest.mark.parametrize(
    ("changes", "tuned"),
    [({}, True), ({"only_if_faster": False}, False), ({"backend": "torch"}, False)],
)
def test_only_auto_is_timed_and_only_where_that_is_wanted(changes: dict, tuned: bool) -> None:
    for plan in (plan_of(), None):
        policy = select.select_policy(options(plan, **changes), sampling())
        assert (policy.tuner is not None) == tuned


def test_a_preset_beside_a_connected_plan_is_said_to_be_ignored() -> None:
    policy = select.select_policy(options(plan_of(), preset="fast"), sampling())
    assert policy.notes == ["preset fast ignored, a plan is connected"]
    completed = select.select_policy(options(toy("prior"), preset="fast"), sampling())
    assert isinstance(completed, CalibrationPolicy) and completed.notes == []  # what is found has its error
    made_for = toy("prior")
    made_for = replace(made_for, provenance=Provenance(model="Toy", parameters={"preset": "faithful"}))
    policy = select.select_policy(options(made_for, preset="fast"), sampling())
    assert policy.notes == ["preset fast ignored, a plan is connected"] and policy.keeper.preset == "faithful"


@pytest.mark.parametrize(
    ("plan", "changes", "why"),
    [
        (plan_of(family="ltx").named("user/mine"), {}, "is for a model with family ltx, this one has family wan"),
        (plan_of(), {"kept": kept_dense("2-3")}, "keep_dense: layer"),
        (None, {"kept": kept_dense("7")}, "keep_dense: layer"),
        (None, {"calibrate": False}, fallback.NO_PLAN.reason),
        (toy("calibrate"), {"calibrate": False}, fallback.NO_PLAN.reason),
    ],
)
def test_what_cannot_run_stays_dense_for_a_reason(plan: Plan | None, changes: dict, why: str) -> None:
    found = select.select_policy(options(plan, **changes), sampling())
    assert isinstance(found, Dense) and why in found.reason


def test_without_a_plan_the_first_run_measures() -> None:
    policy = select.select_policy(options(), sampling())
    assert isinstance(policy, CalibrationPolicy) and policy.planned is None
    assert policy.measurement.begin == MANY[3]  # the last above the noise level .8
    assert policy.measurement.sigmas == MANY[:-1]
    assert policy.measurement.notes["fingerprint"] == str(KNOWN)
    assert (policy.title, policy.shape) == ("wan, calibrating", (LAYERS, HEADS))


@pytest.mark.parametrize(("grade", "calibrate"), [("prior", True), ("prior", False), ("calibrate", True)])
def test_a_shipped_plan_is_completed_or_runs_as_it_ships(grade: str, calibrate: bool) -> None:
    policy = select.select_policy(options(toy(grade), calibrate=calibrate), sampling())
    assert isinstance(policy, CalibrationPolicy if calibrate else PlanPolicy)
    if calibrate:
        assert policy.keeper.shipped == toy(grade)
        assert (policy.prior is not None) == (grade == "prior")


def test_a_model_of_a_published_shape_gets_its_plan_by_itself() -> None:
    """The preset chooses among its files, and that of the plan is what is found."""
    for preset in ("fast", "faithful"):
        policy = select.select_policy(options(preset=preset), sampling(30, 12))
        assert policy.prior.name == f"wan/wan2.1_1.3b_t2v.{preset}"
        assert policy.keeper.preset == preset
        assert policy.notes[0].startswith("no plan connected: taken for Wan 2.1 1.3B T2V or a fine-tune of it, by 30")
    as_shipped = select.select_policy(options(calibrate=False), sampling(30, 12))
    assert isinstance(as_shipped, PlanPolicy) and "(prior)" in as_shipped.title
    refused = select.select_policy(options(kept=kept_dense("77")), sampling(30, 12))
    assert isinstance(refused, Dense) and "taken for Wan 2.1 1.3B T2V" in refused.reason


@pytest.mark.parametrize(
    ("few_steps", "steps", "start", "sparse_from", "remark"),
    [
        (select.SKIP_START, 4, DEFAULT_START, 1.0, "dense start skipped: 1 step"),
        (select.SKIP_START, 4, 0.3, 1.0, "dense start skipped: 2 steps"),
        (select.SKIP_START, 20, DEFAULT_START, 0.8, ""),
        (select.KEEP_START, 4, DEFAULT_START, 0.8, ""),
        (None, 4, DEFAULT_START, 0.8, ""),  # as the node is placed, and in workflows without the input
    ],
)
def test_with_few_steps_a_kept_plan_runs_as_far_up_as_it_was_measured_where_that_is_wanted(
    folder: Path, few_steps: str | None, steps: int, start: float, sparse_from: float, remark: str
) -> None:
    generate(calibration(folder, few=True), SIGMAS[:3])
    sigmas = tuple(1 - step / steps for step in range(steps + 1))
    changes = {} if few_steps is None else {"few_steps": few_steps}
    policy = select.select_policy(options(start_percent=start, **changes), sampling(sigmas=sigmas))
    assert policy.planned.sigma_start == pytest.approx(sparse_from)
    assert policy.remark == remark
    assert policy.measurement is not None  # something is missing still
    assert policy.measurement.known and policy.measurement.policy is None


def test_an_error_while_choosing_costs_no_video(monkeypatch: pytest.MonkeyPatch) -> None:
    def trouble(*_: object) -> None:
        raise ValueError("grid: no such thing")

    monkeypatch.setattr(select, "FoundPlans", trouble)
    found = select.select_policy(options(), sampling())
    assert found.reason == "choosing a plan failed (ValueError: grid: no such thing)"


class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
    """ComfyUI's, as older ones have it: an ordinary exception."""


def test_the_users_interrupt_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptProcessingException

    monkeypatch.setattr(select, "PlanStore", interrupt)
    with pytest.raises(InterruptProcessingException):
        select.select_policy(options(), sampling())
