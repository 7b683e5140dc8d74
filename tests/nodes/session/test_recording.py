"""Runs keep the rules of ComfyUI's memory compiler (`nodes/host/runs/recording.py`), by the stand-in for it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from dense_attention import model_attention
from graph_recorder import GraphError, GraphRecorder
from races import TestClock
from small_wan.model import SmallWan
from sparse_vdit.kernels.patterns import Diagonal, MultiDiagonal, Routed, Skip, VerticalStripe
from sparse_vdit.nodes.host.attention.attention_op import run_attention
from sparse_vdit.nodes.host.families import WAN
from sparse_vdit.nodes.host.runs import output_check, recording
from sparse_vdit.nodes.host.runs.current import pop_run, push_run
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.profile_engine import ProfileEngine
from sparse_vdit.nodes.host.runs.recording import pause_again, recording_paused
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.nodes.host.speed import speeds
from sparse_vdit.nodes.host.speed.race import Race
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance
from sparse_vdit.plans.profile.profiler import Profiler
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


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> GraphRecorder:
    """The stand-in where ComfyUI has its own."""
    made = GraphRecorder(lambda line: "run_attention" in line)
    monkeypatch.setitem(sys.modules, recording.PREFETCH, SimpleNamespace(pause_malloc_graph=made.pause))
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
        recorder.record(lambda: model(x, timestep, context, hook), model, (grid, batch, dtype))
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
    model: SmallWan,
    recorder: GraphRecorder,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    raced: bool,
    at_once: bool,
) -> None:
    """Whatever becomes of a call, its block allocates and frees the same: on a CPU, PyTorch's attention allocates its
    output alone, as a sparse call does."""
    monkeypatch.setattr(output_check, "checks_at_once", lambda device: at_once)
    monkeypatch.setattr(speeds, "_known", {})
    dtype = torch.bfloat16 if backend == "triton" else torch.float32
    recorder.cycles = backend == "triton"
    race = Race(("test",)) if raced else None
    clock = TestClock(dense=10.0, exact=1.0, int8=2.0)
    run = Run(PlanEngine(plan(), 0.9, 0.0, backend, race=race), model_attention, clock=clock)
    sample(run, model, recorder, dtype)
    assert run.stopped is None
    assert run.ledger.sparse
    assert (clock.timed.count("dense") > 0) == (raced and backend == "auto")
    assert sum(run.ledger.dense.values()) >= LAYERS  # the warm-up was recorded too
    assert recorder.pauses
    assert recorder.most_sequences() == 1


@torch.inference_mode()
@pytest.mark.parametrize("flow", ["dense", "sequential"])
def test_profiling_keeps_the_rules(model: SmallWan, recorder: GraphRecorder, flow: str) -> None:
    profiler = Profiler("wan", "small", LAYERS, HEADS, 128, PATTERNS[:3], ((0.9, 0.0),), rows=16, flow=flow)
    run = Run(ProfileEngine(profiler, model, WAN), model_attention)
    for sigma in (0.7, 0.3):
        step(run, run.engine.model, recorder, sigma)
    assert run.engine.observed == 2 * LAYERS
    assert recorder.most_sequences() == 1


@torch.inference_mode()
def test_other_code_may_pause_in_timed_calls(
    model: SmallWan, recorder: GraphRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a pause that the model's own attention makes would end that around the whole call. What this attention
    allocates is not judged."""

    plain = model_attention

    def pausing(*args: object, **kwargs: object) -> torch.Tensor:
        with recorder.pause():
            return plain(*args, **kwargs)

    monkeypatch.setattr(speeds, "_known", {})
    monkeypatch.setattr(f"{__name__}.model_attention", pausing)
    recorder.ours = lambda line: "run_call" in line
    clock = TestClock(dense=10.0, exact=1.0, int8=2.0)
    run = Run(PlanEngine(plan(), 1.0, 0.0, "auto", race=Race(("test",))), pausing, clock=clock)
    step(run, model, recorder, 0.7)
    assert clock.timed.count("dense")


@torch.inference_mode()
def test_a_run_without_the_pause_is_found_out(model: SmallWan, recorder: GraphRecorder) -> None:
    """What a run by plan makes without preparing it beforehand and without the pause outlives the block."""
    sys.modules[recording.PREFETCH].pause_malloc_graph = None
    run = Run(PlanEngine(plan(), 0.9, 0.0, "torch"), model_attention)
    run.prepare = lambda *args: None
    with pytest.raises(GraphError, match="outlives its blocks"):
        sample(run, model, recorder)


@torch.inference_mode()
def test_an_output_that_is_allocated_in_the_pause_is_found_out(
    model: SmallWan, recorder: GraphRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "attend", paused_alone)
    with pytest.raises(GraphError, match="allocated in a pause and freed while recording"):
        sample(Run(PlanEngine(plan(), 0.9, 0.0, "torch"), model_attention), model, recorder)


def paused_alone(run: Run, call: object) -> torch.Tensor | None:
    with recording_paused():
        return run._attend(call)


def test_a_pause_within_a_pause_does_not_reach_comfyui(recorder: GraphRecorder) -> None:
    with recording_paused() as outer:
        with recording_paused() as inner:
            assert outer and inner and recorder.paused
        assert recorder.paused
        with recorder.pause():  # other code's own
            pass
        assert not recorder.paused
        pause_again()
        assert recorder.paused
    assert not recorder.paused
    assert recorder.pauses == 3


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (None, False),
        (SimpleNamespace(), False),
        (SimpleNamespace(pause_malloc_graph=1), True),
        (SimpleNamespace(pause_malloc_graph=1, MALLOC_GRAPHS={}), False),
        (SimpleNamespace(pause_malloc_graph=1, MALLOC_GRAPHS={7: SimpleNamespace(_comfy_active=False)}), False),
        (SimpleNamespace(pause_malloc_graph=1, MALLOC_GRAPHS={7: SimpleNamespace(_comfy_active=True)}), True),
        (SimpleNamespace(pause_malloc_graph=1, MALLOC_GRAPHS={7: object()}), True),
    ],
)
def test_whether_comfyui_records(monkeypatch: pytest.MonkeyPatch, module: object, expected: bool) -> None:
    """Older ComfyUIs have no recording; where one does not say whether it is at work, it is taken to be."""
    monkeypatch.setitem(sys.modules, recording.PREFETCH, module)
    assert recording.recording() == expected
