"""Memory rules of newer ComfyUIs: nothing allocated in a forward outlives it, no attribute is set on a module, unless
the recording is paused. Against a stand-in for the recorder, which is shown to find violations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dense_attention import model_attention
from graph_recorder import GraphError, GraphRecorder
from races import TestClock
from small_wan.model import SmallWan
from sparse_vdit.kernels.patterns import Diagonal, MultiDiagonal, Routed, Skip, VerticalStripe
from sparse_vdit.nodes.host.attention.attention_op import run_attention
from sparse_vdit.nodes.host.families import WAN
from sparse_vdit.nodes.host.runs import output_check
from sparse_vdit.nodes.host.runs.current import pop_run, push_run
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.profile_engine import ProfileEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.nodes.host.speed import speeds
from sparse_vdit.nodes.host.speed.race import Race
from sparse_vdit.plans.plan import Band, Plan, Provenance
from sparse_vdit.plans.profiler import Profiler
from torch import nn

GRIDS = (3, 6, 9), (2, 7, 5)
LAYERS, HEADS = 2, 3
PATTERNS = (Diagonal(0), VerticalStripe(), MultiDiagonal(0.1, None), Skip(), Routed(0.3))


def plan() -> Plan:
    """Two bands, every kind of pattern."""
    bands = (Band(1.0, 0.5, ((0, 1, 2), (3, 0, 1))), Band(0.5, 0.0, ((4, 0, 3), (2, 2, 4))))
    return Plan("wan", LAYERS, HEADS, 128, GRIDS[0], PATTERNS, bands, "measured", Provenance())


@pytest.fixture(scope="module")
def model() -> SmallWan:
    torch.manual_seed(3)
    made = SmallWan(num_layers=LAYERS).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.05)
    return made


def step(
    run: Run,
    model: SmallWan,
    recorder: GraphRecorder,
    sigma: float,
    grid: tuple[int, int, int] = GRIDS[0],
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
) -> None:
    """A recorded forward, its attention in `dtype`. What the pack does in its APPLY_MODEL wrapper comes before: ComfyUI
    records the model alone."""
    generator = torch.Generator().manual_seed(2)
    frames, height, width = grid
    x = torch.randn(batch, 16, frames, 2 * height, 2 * width, generator=generator)
    context = torch.randn(batch, 4, 4096, generator=generator)
    timestep = torch.full((batch,), 1000 * sigma)

    def hook(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple) -> torch.Tensor:
        flat = [tensor.flatten(2).to(dtype) for tensor in (q, k, v)]
        out = run_attention(*flat, HEADS, layer, (*grid, 0, 0), False, False, lambda: model_attention(*flat, HEADS))
        return out.unflatten(-1, (HEADS, -1)).to(q.dtype)

    push_run(run)
    try:
        run.reason = run.stopped or run.engine.reason(sigma)
        if run.reason is None:
            run.prepare((*grid, 0, 0), batch, torch.device("cpu"))
        run.begin_forward(torch.device("cpu"), sigma)
        run.options = {}
        recorder.record(lambda: model(x, timestep, context, hook))
        run.must_repeat()
    finally:
        pop_run(run)


def sample(run: Run, model: SmallWan, recorder: GraphRecorder, dtype: torch.dtype = torch.float32) -> None:
    """Warm-up, then both bands, with grids and batches that change."""
    for sigma, grid, batch in ((0.95, 0, 1), (0.7, 1, 1), (0.6, 0, 2), (0.3, 1, 2), (0.2, 0, 1)):
        step(run, model, recorder, sigma, GRIDS[grid], batch, dtype)


@torch.inference_mode()
@pytest.mark.parametrize("backend", ["torch", "auto", "triton"])
@pytest.mark.parametrize("raced", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_run_by_plan_keeps_the_rules(
    model: SmallWan, monkeypatch: pytest.MonkeyPatch, backend: str, raced: bool, at_once: bool
) -> None:
    monkeypatch.setattr(output_check, "checks_at_once", lambda device: at_once)
    monkeypatch.setattr(speeds, "_known", {})
    dtype = torch.bfloat16 if backend == "triton" else torch.float32
    recorder = GraphRecorder(cycles=backend == "triton")
    race = Race(("test",)) if raced else None
    clock = TestClock(dense=10.0, exact=1.0, int8=2.0)
    run = Run(PlanEngine(plan(), 0.9, 0.0, backend, recorder.pause, race=race), model_attention, clock=clock)
    sample(run, model, recorder, dtype)
    assert run.stopped is None
    assert run.ledger.sparse
    assert (clock.timed.count("dense") > 0) == (raced and backend == "auto")
    assert sum(run.ledger.dense.values()) >= LAYERS  # the warm-up was recorded too
    assert recorder.pauses


@torch.inference_mode()
@pytest.mark.parametrize("flow", ["dense", "sequential"])
def test_profiling_keeps_the_rules(model: SmallWan, flow: str) -> None:
    recorder = GraphRecorder()
    profiler = Profiler("wan", "small", LAYERS, HEADS, 128, PATTERNS[:3], ((0.9, 0.0),), rows=16, flow=flow)
    run = Run(ProfileEngine(profiler, model, WAN, recorder.pause), model_attention)
    for sigma in (0.7, 0.3):
        step(run, run.engine.model, recorder, sigma)
    assert run.engine.observed == 2 * LAYERS


def planted(kind: str) -> Callable[[GraphRecorder, nn.Module, list], torch.Tensor]:
    """A forward that breaks a rule, or keeps it."""

    def forward(recorder: GraphRecorder, module: nn.Module, kept: list) -> torch.Tensor:
        x = torch.ones(7, 5)
        if kind == "result":
            return x * 2
        if kind == "view of the input":
            kept.append(module.weight[:2])
        if kind == "kept tensor":
            kept.append(x + 1)
        if kind == "kept view":
            kept.append((x + 1)[2:])
        if kind == "kept numbers":
            kept.append(torch.tensor([1, 2, 3]))
        if kind == "attribute":
            module.note = 1
        if kind == "paused":
            with recorder.pause():
                kept.append(x + 1)
                module.note = 1
        return module(x)

    return forward


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("result", None), ("view of the input", None), ("paused", None), ("kept tensor", "aten.add"),
        ("kept view", "aten.add"), ("kept numbers", "lift_fresh"), ("attribute", "Linear.note set"),
    ],
)  # fmt: skip
@torch.inference_mode()
def test_the_stand_in_finds_planted_violations(kind: str, says: str | None) -> None:
    recorder, module, kept = GraphRecorder(), nn.Linear(5, 3), []

    def run() -> torch.Tensor:
        return recorder.record(lambda: planted(kind)(recorder, module, kept))

    if says is None:
        assert run().shape[0] == 7
    else:
        with pytest.raises(GraphError, match=says):
            run()
    module.after = 1  # nothing is watched any more


@torch.inference_mode()
def test_an_engine_without_the_pause_is_found_out(model: SmallWan) -> None:
    """What a run by plan makes without preparing it beforehand and without the pause outlives the forward."""
    recorder = GraphRecorder()
    run = Run(PlanEngine(plan(), 0.9, 0.0, "torch"), model_attention)
    run.prepare = lambda *args: None
    with pytest.raises(GraphError, match="malloc graph broken"):
        sample(run, model, recorder)
