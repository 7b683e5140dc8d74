"""Runs on a GPU: flags and times without waiting for it, the race between real kernels, memory that runs out."""

from __future__ import annotations

import pytest
import torch
from dense_attention import model_attention
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.attention.attention_op import run_attention
from sparse_vdit.nodes.host.reports import reasons
from sparse_vdit.nodes.host.runs.current import pop_run, push_run, timing_dense
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.nodes.host.speed import kernel_choice, race, speeds
from sparse_vdit.nodes.host.speed.race import EXACT, Race, device_name
from sparse_vdit.plans.plan.plan import uniform_plan
from test_failures import nan_in_head_1, trouble

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

GRID, LAYERS, HEADS = (9, 30, 31), 6, 3
LAYOUT = (*GRID, 0, 0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(speeds, "_known", {})
    plan = uniform_plan("wan", LAYERS, HEADS, 128, GRID, Diagonal(0))
    made = Run(PlanEngine(plan, 0.8, 0.0, "auto", race=Race(("gpu test",))), model_attention)
    push_run(made)
    yield made
    pop_run(made)
    made.free()


def qkv() -> list[torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(4)
    shape = (1, GRID[0] * GRID[1] * GRID[2], HEADS * 128)
    return [torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16) for _ in range(3)]


def layers_of(run: Run, x: list[torch.Tensor]) -> list[torch.Tensor]:
    return [run_attention(*x, HEADS, layer, LAYOUT, False, False, lambda: dense(x)) for layer in range(LAYERS)]


def dense(x: list[torch.Tensor]) -> torch.Tensor:
    """The model's own attention as the override calls it."""
    with timing_dense():
        return model_attention(*x, HEADS)


def forward(run: Run, sigma: float, x: list[torch.Tensor], wait_forbidden: bool = False) -> list[torch.Tensor]:
    run.reason, run.options = run.stopped or run.engine.reason(sigma), {}
    if run.reason is None:
        run.prepare(LAYOUT, 1, x[0].device)
    run.begin_forward(x[0].device, sigma)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error" if wait_forbidden else "default")
    try:
        out = layers_of(run, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    while run.must_repeat():
        out = layers_of(run, x)
    return out


def test_the_race_is_decided_by_real_times(run: Run) -> None:
    x = qkv()
    forward(run, 0.9, x)
    for sigma in (0.6, 0.5, 0.4):
        forward(run, sigma, x)
        torch.cuda.synchronize()
    run.read_clocks()
    assert run.stopped is None
    lanes = next(iter(run.engine.kernels.results().values()))
    assert any(name.startswith(race.DENSE) and ms > 0 for name, ms in lanes.items())
    assert any(name.startswith(EXACT) and ms > 0 for name, ms in lanes.items())
    assert any(
        name.startswith("int8") and name.endswith("error") and 0 < e <= race.ERROR_BUDGET for name, e in lanes.items()
    )
    assert device_name(x[0].device) in next(iter(run.engine.kernels.results()))


def test_a_settled_forward_never_waits_for_the_device(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "MARGIN", -1e9)  # sparse wins whatever the times
    x = qkv()
    for sigma in (0.9, 0.6, 0.5):
        forward(run, sigma, x)
    forward(run, 0.4, x, wait_forbidden=True)
    assert run.stopped is None
    assert run.ledger.sparse == 3 * LAYERS


def test_nan_on_the_device_is_found_and_its_layer_repeated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "MARGIN", -1e9)
    x = qkv()
    for sigma in (0.9, 0.6, 0.5):
        forward(run, sigma, x)
    trouble(monkeypatch, nan_in_head_1(2))
    out = forward(run, 0.4, x)
    assert torch.equal(out[2], model_attention(*x, HEADS))
    assert "layer 2, head 1" in run.report()


def test_real_lack_of_memory_ends_sparse_attention_not_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    x, plain = qkv(), kernel_choice.run_call

    def greedy(*args: object) -> torch.Tensor:
        torch.empty(torch.cuda.get_device_properties(0).total_memory * 2, dtype=torch.uint8, device="cuda")
        return plain(*args)

    monkeypatch.setattr(kernel_choice, "run_call", greedy)
    out = forward(run, 0.5, x)
    assert all(torch.equal(layer, model_attention(*x, HEADS)) for layer in out)
    assert run.ledger.dense == {reasons.OUT_OF_MEMORY: LAYERS}
