"""Runs on a GPU: flags and times without waiting for it, real kernels that are timed, memory that runs out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import runs
import torch
from dense_attention import model_attention
from runs import dense_calls, line, run_of, sparse_calls
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.policies import kernel_tuner
from sparse_vdit.nodes.host.policies.kernel_tuner import ERROR_BUDGET, KernelTuner, forget_times
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session import execution
from sparse_vdit.nodes.host.session.call import DENSE, EXACT, INT8
from sparse_vdit.nodes.host.session.run import Run
from sparse_vdit.plans.plan.plan import uniform_plan
from spoiled_kernels import nan_in, through

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

GRID, LAYERS, HEADS = (9, 30, 31), 6, 3


@pytest.fixture
def run() -> Iterator[Run]:
    """A run whose warm-up ends at sigma .8, and that times its kernels."""
    forget_times()
    plan = uniform_plan("wan", LAYERS, HEADS, 128, GRID, Diagonal(0))
    made = run_of(PlanPolicy(plan, 0.8, 0.0, "auto", KernelTuner()))
    yield made
    made.free()
    forget_times()


@pytest.fixture
def settled(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same, when sparse attention has won, whatever the times."""
    monkeypatch.setattr(kernel_tuner, "MARGIN", -1e9)
    for sigma in (0.9, 0.6, 0.5):
        runs.forward(run, sigma, qkv(), GRID)
        torch.cuda.synchronize()
    return run


def qkv() -> list[torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(4)
    shape = (1, GRID[0] * GRID[1] * GRID[2], HEADS * 128)
    return [torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16) for _ in range(3)]


def test_the_verdict_is_of_real_times(run: Run) -> None:
    for sigma in (0.9, 0.6, 0.5, 0.4):
        runs.forward(run, sigma, qkv(), GRID)
        torch.cuda.synchronize()
    run.clock.collect(wait=True)
    assert run.stopped is None
    ((place, lanes),) = run.policy.tuner.detail().items()
    assert lanes[DENSE] > 0
    assert any(EXACT in name and ms > 0 for name, ms in lanes.items())
    errors = [error for name, error in lanes.items() if INT8 in name and name.endswith("error")]
    assert errors and all(0 < error <= ERROR_BUDGET for error in errors)
    assert "cuda:0" in place


def test_a_settled_forward_never_waits_for_the_device(settled: Run) -> None:
    """Until its end, when the flags are read."""
    x, attend = qkv(), settled.attend
    waits = []

    def watched(call: object) -> torch.Tensor | None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            waits.append(call.layer)
            return attend(call)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    settled.attend = watched
    runs.forward(settled, 0.4, x, GRID)
    assert len(waits) == LAYERS
    assert settled.stopped is None
    assert sparse_calls(settled) == 3 * LAYERS


def test_nan_on_the_device_is_found_and_its_forward_repeated(settled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    x = qkv()
    through(monkeypatch, nan_in({2: (1,)}))
    assert all(torch.equal(out, model_attention(*x, HEADS)) for out in runs.forward(settled, 0.4, x, GRID))
    assert settled.stopped is fallback.NOT_FINITE
    assert "layer 2, head 1" in line(settled)


def test_real_lack_of_memory_ends_sparse_attention_not_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    x, plain = qkv(), execution.run_call

    def greedy(*args: object) -> torch.Tensor:
        torch.empty(torch.cuda.get_device_properties(0).total_memory * 2, dtype=torch.uint8, device="cuda")
        return plain(*args)

    monkeypatch.setattr(execution, "run_call", greedy)
    out = runs.forward(run, 0.5, x, GRID)
    assert all(torch.equal(layer, model_attention(*x, HEADS)) for layer in out)
    assert dense_calls(run) == {fallback.OUT_OF_MEMORY: LAYERS}
