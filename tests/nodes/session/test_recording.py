"""Runs keep the rules of ComfyUI's memory compiler (`nodes/host/session/memory.py`), by the stand-in for it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from dense_attention import model_attention
from graph_recorder import GraphError, GraphRecorder
from runs import attend, dense_calls, run_forward, run_of, sparse_calls
from small_wan.model import SmallWan
from sparse_vdit.kernels.patterns import Diagonal, MultiDiagonal, Routed, Skip, VerticalStripe
from sparse_vdit.nodes.host.hooks.blocks import begin_block, end_block
from sparse_vdit.nodes.host.models import WAN
from sparse_vdit.nodes.host.policies.kernel_tuner import KernelTuner, forget_times
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.policies.profile import ProfilePolicy
from sparse_vdit.nodes.host.session import memory
from sparse_vdit.nodes.host.session.memory import pause_again, recording_paused
from sparse_vdit.nodes.host.session.run import Run
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance
from sparse_vdit.plans.profile.profiler import Profiler
from spoiled_kernels import nan_in, through
from told_clock import ToldClock
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
    """The stand-in where ComfyUI has its own. What a call allocates on its way through the pack is judged."""
    made = GraphRecorder(lambda line: "attention_override" in line)
    monkeypatch.setitem(sys.modules, memory.PREFETCH, SimpleNamespace(pause_malloc_graph=made.pause))
    forget_times()
    return made


def step(
    run: Run,
    model: SmallWan,
    recorder: GraphRecorder,
    sigma: float,
    grid: tuple[int, int, int] = GRIDS[0],
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    own: object = model_attention,
) -> None:
    """A recorded forward, its attention in `dtype`. ComfyUI records the model alone, not the wrapper around it."""
    generator = torch.Generator().manual_seed(2)
    frames, height, width = grid
    x = torch.randn(batch, 16, frames, 2 * height, 2 * width, generator=generator)
    context = torch.randn(batch, 4, 4096, generator=generator)
    timestep = torch.full((batch,), 1000 * sigma)

    def body(options: dict) -> None:
        def hook(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple) -> torch.Tensor:
            begin_block(layer, options)
            out = attend([tensor.flatten(2).to(dtype) for tensor in (q, k, v)], HEADS, options, own)
            end_block()
            return out.unflatten(-1, (HEADS, -1)).to(q.dtype)

        recorder.record(lambda: model(x, timestep, context, hook), model, (grid, batch, dtype))

    run_forward(run, sigma, body, grid, batch)


def sample(run: Run, model: SmallWan, recorder: GraphRecorder, dtype: torch.dtype = torch.float32) -> None:
    """Warm-up, then both bands, with grids and batches that change."""
    for sigma, grid, batch in ((0.95, 0, 1), (0.7, 1, 1), (0.6, 0, 2), (0.3, 1, 2), (0.2, 0, 1)):
        step(run, model, recorder, sigma, GRIDS[grid], batch, dtype)


@torch.inference_mode()
@pytest.mark.parametrize("backend", ["torch", "auto", pytest.param("triton", marks=pytest.mark.slow)])
@pytest.mark.parametrize("with_tuner", [False, True])
def test_a_run_by_plan_keeps_the_rules(
    model: SmallWan, recorder: GraphRecorder, backend: str, with_tuner: bool
) -> None:
    """Whatever becomes of a call, its block allocates and frees the same: on a CPU, PyTorch's attention allocates its
    output alone, as a sparse call does."""
    dtype = torch.bfloat16 if backend == "triton" else torch.float32
    recorder.cycles = backend == "triton"
    tuner = KernelTuner() if with_tuner else None
    clock = ToldClock(dense=10.0, exact=1.0, int8=2.0)
    run = run_of(PlanPolicy(plan(), 0.9, 0.0, backend, tuner), clock)
    sample(run, model, recorder, dtype)
    assert run.stopped is None
    assert sparse_calls(run)
    assert (clock.timed.count("dense") > 0) == (with_tuner and backend == "auto")
    assert sum(dense_calls(run).values()) >= LAYERS  # the warm-up was recorded too
    assert recorder.pauses
    assert recorder.most_sequences() == 1


@torch.inference_mode()
def test_a_forward_that_is_repeated_dense_keeps_the_rules(
    model: SmallWan, recorder: GraphRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so do the dense ones that follow."""
    through(monkeypatch, nan_in({1: (0,)}))
    run = run_of(PlanPolicy(plan(), 1.0, 0.0, "torch"))
    for sigma in (0.7, 0.3):
        step(run, model, recorder, sigma)
    assert (sparse_calls(run), sum(dense_calls(run).values())) == (0, 2 * LAYERS)
    assert recorder.most_sequences() == 1


@torch.inference_mode()
@pytest.mark.parametrize("flow", ["dense", "sequential"])
def test_profiling_keeps_the_rules(model: SmallWan, recorder: GraphRecorder, flow: str) -> None:
    profiler = Profiler("wan", "small", LAYERS, HEADS, 128, PATTERNS[:3], ((0.9, 0.0),), rows=16, flow=flow)
    run = run_of(ProfilePolicy(profiler, model, WAN))
    for sigma in (0.7, 0.3):
        step(run, model, recorder, sigma)
    assert run.policy.observed == 2 * LAYERS
    assert recorder.most_sequences() == 1


@torch.inference_mode()
def test_other_code_may_pause_in_timed_calls(model: SmallWan, recorder: GraphRecorder) -> None:
    """The end of a pause that the model's own attention makes would end that around the whole call. What this attention
    allocates is not judged."""

    def pausing(*args: object, **kwargs: object) -> torch.Tensor:
        with recorder.pause():
            return model_attention(*args, **kwargs)

    recorder.ours = lambda line: "run_call" in line
    clock = ToldClock(dense=10.0, exact=1.0, int8=2.0)
    run = run_of(PlanPolicy(plan(), 1.0, 0.0, "auto", KernelTuner()), clock)
    step(run, model, recorder, 0.7, own=pausing)
    assert clock.timed.count("dense")


@torch.inference_mode()
def test_a_run_without_the_pause_is_found_out(model: SmallWan, recorder: GraphRecorder) -> None:
    """What a run by plan makes without preparing it beforehand and without the pause outlives the block."""
    sys.modules[memory.PREFETCH].pause_malloc_graph = None
    run = run_of(PlanPolicy(plan(), 0.9, 0.0, "torch"))
    run.prepare = lambda *args: None
    with pytest.raises(GraphError, match="outlives its blocks"):
        sample(run, model, recorder)


@torch.inference_mode()
def test_an_output_that_is_allocated_in_the_pause_is_found_out(
    model: SmallWan, recorder: GraphRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "attend", paused_alone)
    with pytest.raises(GraphError, match="allocated in a pause and freed while recording"):
        sample(run_of(PlanPolicy(plan(), 0.9, 0.0, "torch")), model, recorder)


def paused_alone(run: Run, call: object) -> torch.Tensor | None:
    with recording_paused():
        return run._attend(call)


def test_a_pause_within_a_pause_does_not_reach_comfyui(recorder: GraphRecorder) -> None:
    with recording_paused():
        with recording_paused():
            assert recorder.paused
        assert recorder.paused
        with recorder.pause():  # other code's own
            pass
        assert not recorder.paused
        pause_again()
        assert recorder.paused
    assert not recorder.paused
    assert recorder.pauses == 3
    pause_again()  # outside of a pause it does nothing
    assert not recorder.paused


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
    monkeypatch.setitem(sys.modules, memory.PREFETCH, module)
    assert memory.recording() == expected
