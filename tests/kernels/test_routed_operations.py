"""Calls of the plans that ship, as the kernels' launcher sees them: few operations, and nothing that waits."""

from __future__ import annotations

import pytest
import torch
from load_pack import ROOT
from settled_calls import OperationCounter, no_waiting
from sparse_vdit.kernels.attention import keep_tables
from sparse_vdit.kernels.backends import triton_backend
from sparse_vdit.kernels.backends.launcher import Launch
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Routed
from sparse_vdit.kernels.routing import MAX_EXTRA, routed_call, score_chunks
from sparse_vdit.plans.plan.binding import BoundPlan
from sparse_vdit.plans.plan.files import load_plan

PLANS = {path.stem: load_plan(path) for path in sorted(ROOT.glob("plans/*/*.json")) if "calibrate" not in path.stem}
GRID = TokenGrid(3, 9, 14, prefix=3, suffix=11)
MAX_OPERATIONS = 12
LARGE = TokenGrid(21, 45, 80)  # 720p with 81 frames

every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())


def head_lists(table: object) -> set[tuple[int, ...]]:
    """The lists of the heads of each layer, without those that are equal."""
    return {row for band in table for row in band}


@every_plan
@pytest.mark.parametrize("int8", [False, True], ids=["16 bits", "8 bits"])
def test_a_settled_call_issues_few_operations_and_does_not_wait(
    plan: object, int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, table = BoundPlan(plan).lists(GRID, "cpu")
    q, k, v = (torch.zeros(1, GRID.tokens, plan.heads, plan.head_dim, dtype=torch.float16) for _ in range(3))
    bias = torch.zeros(1, GRID.text_tokens)
    for heads in sorted(head_lists(table)):
        keep_tables(lists, heads, 1, plan.head_dim, "triton")
        call = AttentionCall(q, k, v, lists, heads, bias, int8)
        launches: list[Launch] = []

        def compute(call=call, launches=launches) -> None:
            chosen = routed_call(
                call, lambda *routed: triton_backend.launched_choice(*routed, launches.append)
            )
            triton_backend.run(chosen, "sm_89", launches.append)

        compute()
        launches.clear()
        with no_waiting(monkeypatch), OperationCounter() as counter:
            compute()
        helpers = sum(launch.kernel != "attention" for launch in launches)
        assert helpers + counter.operations.total() <= MAX_OPERATIONS, (counter.operations, launches)


@every_plan
def test_scores_of_tiles_keep_to_the_memory(plan: object) -> None:
    """At 720p: how many chunks the scores of a layer take, and that each is within its part of q, k and v."""
    q = torch.empty(1, LARGE.tokens, plan.heads, plan.head_dim, dtype=torch.bfloat16, device="meta")
    call = type("Call", (), {"q": q})
    routed = [sum(isinstance(plan.patterns[n], Routed) for n in row) for band in plan.bands for row in band.heads]
    tiles = (LARGE.video_tokens // 128, LARGE.video_tokens // 64)
    means = (torch.empty(max(routed), count, plan.head_dim, device="meta") for count in tiles)
    chunks = [scores.nbytes for _, scores in score_chunks(call, *means)]
    assert 1 <= len(chunks) <= 2
    assert max(chunks) <= MAX_EXTRA * 3 * q.nbytes


def test_waiting_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2)
    for wait in (lambda: x.tolist(), lambda: x[0].item(), lambda: bool(x[0]), lambda: torch.tensor([1])):
        with no_waiting(monkeypatch), pytest.raises(AssertionError, match="a settled call uses"):
            wait()
    with OperationCounter() as counter:
        x.view(1, 2).add(1)
    assert counter.operations == {"add": 1}
