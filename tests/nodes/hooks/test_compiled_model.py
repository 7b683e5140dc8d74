"""torch.compile: attention stays one opaque call in one graph, and decides anew at every step."""

from __future__ import annotations

import shutil

import pytest
import torch
from runs import dense_calls, run_forward, run_of, sparse_calls
from small_wan.model import SmallWan
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.hooks.compile_op import attention_op
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session.run import Run
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance
from tolerances import SAMPLED, relative_l2
from torch._dynamo.testing import CompileCounterWithBackend

GRID = (9, 7, 9)
BACKEND = "inductor" if shutil.which("g++") or shutil.which("clang++") else "aot_eager"


@pytest.fixture
def run() -> Run:
    """A run whose plan has another pattern in each half of the noise levels, and a dense warm-up."""
    bands = (Band(1.0, 0.5, ((0,) * 3,) * 2), Band(0.5, 0.0, ((1,) * 3,) * 2))
    plan = Plan("wan", 2, 3, 128, GRID, (Diagonal(0), Diagonal(1)), bands, "measured", Provenance())
    return run_of(PlanPolicy(plan, 0.9, 0.0, "torch"))


def opaque(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """The model's hook, through the pack's operator."""
    flat = (x.flatten(2) for x in (q, k, v))
    number = torch.tensor(layer)
    out = attention_op(*flat, q.shape[2], number, (*grid, 0, 0), False, False, "", [])
    return out.unflatten(-1, (q.shape[2], -1))


@pytest.mark.slow
@torch.inference_mode()
def test_one_graph_follows_a_plan_that_changes_with_the_steps(run: Run) -> None:
    torch.manual_seed(3)
    model = SmallWan(num_layers=2).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)  # as it begins, the last layer gives zeros
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(BACKEND)
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    x, context = torch.randn(1, 16, GRID[0], 2 * GRID[1], 2 * GRID[2]), torch.randn(1, 4, 4096)
    outputs = []
    timestep = torch.tensor([500.0])  # the same input at each step: what differs is the plan

    def body(function: object) -> torch.Tensor:
        run.forget_blocks()  # nothing is said between the blocks of a model that is compiled whole
        return function(x, timestep, context, opaque)

    for sigma in (0.95, 0.7, 0.3, 0.7):
        outputs.append(run_forward(run, sigma, lambda _: body(compiled), GRID))
        assert relative_l2(outputs[-1], run_forward(run, sigma, lambda _: body(model), GRID)) <= SAMPLED
    assert counter.frame_count == 1
    dense, first, second, again = outputs
    assert torch.equal(first, again)
    distances = [relative_l2(a, b) for a, b in ((first, dense), (second, dense), (first, second))]
    assert min(distances) > 10 * SAMPLED, distances
    assert (sparse_calls(run), dense_calls(run)) == (2 * 3 * 2, {fallback.WARM_UP: 2 * 2})
