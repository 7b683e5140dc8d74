"""What the plan decides about calls, without ComfyUI: noise levels, dense layers, backends, and what users are told."""

from __future__ import annotations

import inspect

import pytest
import torch
from host_runs import GRID, engine, qkv
from sparse_vdit.kernels.backends import triton_backend
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Dense, Diagonal, Skip
from sparse_vdit.nodes.host.attention.attention_op import split_heads
from sparse_vdit.nodes.host.reports import reasons
from sparse_vdit.nodes.host.runs import plan_engine
from sparse_vdit.nodes.host.runs import run as run_module
from sparse_vdit.nodes.host.runs.engine import Call, Engine
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.profile_engine import ProfileEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.plans.plan.plan import uniform_plan
from sparse_vdit.plans.search.kept_dense import kept_dense, with_dense


def test_what_launches_read_is_made_before_the_forward() -> None:
    made = PlanEngine(uniform_plan("wan", 4, 3, 128, GRID, Diagonal(0)), 1.0, 0.0, "torch")
    assert made.reason(0.5) is None
    made.prepare((*GRID, 0, 0), 2, torch.device("cpu"))
    lists, table = made.bound.lists(TokenGrid(*GRID), torch.device("cpu"))
    assert {"orders", (table[0][0] * 2, 3)} <= set(lists._cache)


def test_dense_decisions_by_noise_level() -> None:
    plan = engine(Diagonal(0), start=0.9, end=0.2)
    assert [plan.reason(sigma) for sigma in (0.95, 0.9, 0.2, 0.1)] == [
        reasons.WARM_UP,
        None,
        None,
        reasons.AFTER_END,
    ]
    rounded = torch.tensor([0.9, 0.2]).tolist()  # as schedules are, to float32: just above and below
    assert rounded[0] != 0.9 and [plan.reason(sigma) for sigma in rounded] == [None, None]
    half = PlanEngine(uniform_plan("wan", 4, 3, 128, GRID, Dense(), sigma_high=0.8, sigma_low=0.4), 1.0, 0.0, "torch")
    assert half.reason(0.9) == half.reason(0.4) == reasons.NO_BAND
    assert half.reason(0.5) is None


def test_all_heads_dense_is_the_models_own_attention() -> None:
    run = Run(engine(Dense(), backend="auto"), function=None)
    run.reason = run.engine.reason(0.5)
    assert run.attend(Call(0, (*GRID, 0, 0), *(split_heads(x, 3, False) for x in qkv()))) is None
    assert run.ledger.dense == {reasons.DENSE_HEADS: 1}


def test_what_the_user_keeps_dense_is_told_from_a_dense_plan() -> None:
    """Layer 0 is dense by the plan, layer 1 by the user."""
    plan = uniform_plan("wan", 3, 3, 128, GRID, Diagonal(0))
    plan = with_dense(plan, kept_dense("0"))
    run = Run(PlanEngine(plan, 1.0, 0.0, "auto", kept=kept_dense("1")), function=None)
    run.reason = run.engine.reason(0.5)
    for layer in range(3):
        run.attend(Call(layer, (*GRID, 0, 0), *(split_heads(x, 3, False) for x in qkv())))
    assert run.ledger.dense == {reasons.DENSE_HEADS: 1, reasons.KEPT_DENSE: 1}
    assert f"{reasons.KEPT_DENSE} 1" in run.report()


def test_patterns_that_leave_nothing_out_are_the_plans() -> None:
    run = Run(PlanEngine(uniform_plan("wan", 1, 3, 128, GRID, Diagonal(9, 1.0, 1.0)), 1.0, 0.0, "auto"), function=None)
    run.reason = run.engine.reason(0.5)
    run.attend(Call(0, (*GRID, 0, 0), *(split_heads(x, 3, False) for x in qkv())))
    assert run.ledger.dense == {reasons.DENSE_HEADS: 1}


def test_a_video_too_small_for_the_patterns_is_told_from_a_dense_plan() -> None:
    """60 tokens are not even one full tile."""
    grid = (3, 4, 5)
    run = Run(engine(Diagonal(0), backend="auto"), function=None)
    run.reason = run.engine.reason(0.5)
    assert run.attend(Call(0, (*grid, 0, 0), *(split_heads(x, 3, False) for x in qkv(tokens=60)))) is None
    assert run.ledger.dense == {reasons.TOO_SMALL: 1}
    assert "3x4x5 tokens are too few for patterns that were measured on 5x8x11 tokens" in run.report()
    assert reasons.MENDS[reasons.TOO_SMALL] in run.report()


def test_calls_in_a_cuda_graph_stay_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is captured is replayed in later steps, without asking the pack. ComfyUI captures blocks of some models."""
    monkeypatch.setattr(run_module, "captured", lambda device: True)
    run = Run(engine(Diagonal(0)), function=None)
    run.reason = run.engine.reason(0.5)
    assert run.attend(Call(0, (*GRID, 0, 0), *(split_heads(x, 3, False) for x in qkv()))) is None
    assert run.ledger.dense == {reasons.CAPTURED: 1}
    assert "--disable-cuda-graphs" in run.report()


def test_plans_that_skip_many_heads_are_warned_of_where_they_run() -> None:
    run = Run(engine(Skip()), function=None)
    run.reason = run.engine.reason(0.5)
    for layer in range(2):
        assert run.attend(Call(layer, (*GRID, 0, 0), *(split_heads(x, 3, False) for x in qkv()))) is not None
    assert run.report().count("the plan skips 100% of the heads") == 1


def test_advice_to_take_backend_auto_is_given_once() -> None:
    run = Run(engine(Diagonal(0), backend="compiled"), function=None)
    run.reason = run.engine.reason(0.5)
    assert run.attend(Call(0, (*GRID, 0, 0), *(split_heads(x, 3, False) for x in qkv()))) is None
    assert "device cpu is not an NVIDIA GPU" in run.report()
    assert run.report().count("backend auto") == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_without_fast_kernels_stays_dense(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """There torch alone is slower than the model's own attention; who names the backend gets it."""
    monkeypatch.setattr(triton_backend, "INTERPRETED", False)
    for backend in ("auto", "torch"):
        run = Run(engine(Diagonal(0), backend=backend), function=None)
        run.reason = run.engine.reason(0.5)
        out = run.attend(Call(0, (*GRID, 0, 0), *(split_heads(x.to(dtype), 3, False) for x in qkv())))
        dense = backend == "auto" and dtype == torch.bfloat16
        assert (out is None) == dense
        assert run.ledger.dense == ({reasons.NO_KERNELS: 1} if dense else {})


def test_devices_that_are_not_timed_stay_dense_unless_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_engine, "TIMED_ON", ("cuda",))
    for backend, reason in (("auto", {reasons.NO_KERNELS: 1}), ("torch", {})):
        run = Run(engine(Diagonal(0), backend=backend), function=None)
        run.reason = run.engine.reason(0.5)
        run.attend(Call(0, (*GRID, 0, 0), *(split_heads(x, 3, False) for x in qkv())))
        assert run.ledger.dense == reason


@pytest.mark.parametrize("made", [PlanEngine, ProfileEngine])
def test_engines_take_what_the_protocol_says(made: type) -> None:
    for name in ("reason", "prepare", "attention", "dense_timer", "told", "detail", "free"):
        said = inspect.signature(getattr(Engine, name)).parameters
        assert list(inspect.signature(getattr(made, name)).parameters) == list(said), name


def test_the_first_use_of_a_gpu_is_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_engine, "_announced", set())
    said = []
    for device in ("cpu", "cuda:0", "cuda:0", "cuda:1"):
        plan_engine.announce(torch.device(device), said.append)
    assert [line.split(";")[0] for line in said] == [f"preparing the kernels for cuda:{n}" for n in (0, 1)]
