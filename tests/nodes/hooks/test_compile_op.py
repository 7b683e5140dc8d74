"""The operator that compiled code calls: the same attention, decided when it runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from dense_attention import model_attention
from runs import (
    GRID,
    HEADS,
    comfyui_attention,
    dense_calls,
    forward,
    forward_by_operator,
    plan_of,
    policy,
    qkv,
    run_of,
    sparse_calls,
)
from sparse_vdit.kernels.patterns import Dense, Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.hooks.compile_op import attention_op
from sparse_vdit.nodes.host.policies.kernel_tuner import TRIES, KernelTuner, forget_times
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session.block_tracker import COUNTED
from sparse_vdit.nodes.host.session.call import DENSE, EXACT
from sparse_vdit.nodes.host.session.run import as_current
from told_clock import ToldClock

LAYOUT = (*GRID, 0, 0)


@pytest.fixture(autouse=True)
def with_comfyui() -> Iterator[None]:
    """ComfyUI's attention, which the operator asks for; nothing was timed."""
    forget_times()
    with comfyui_attention():
        yield
    forget_times()


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="torch has no such tag yet")
def test_the_operator_stays_out_of_cuda_graphs() -> None:
    assert torch.Tag.cudagraph_unsafe in torch.ops.sparse_vdit.attention.default.tags


def test_the_operator_is_well_behaved() -> None:
    run = run_of(policy(Diagonal(0)))
    run.begin_step(0.5)
    with as_current(run):
        torch.library.opcheck(attention_op, (*qkv(), HEADS, torch.tensor(0), LAYOUT, False, False, "", []))
    assert sparse_calls(run)


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("out_by_head", [False, True])
def test_layouts_in_and_out(by_head: bool, out_by_head: bool) -> None:
    """(B, S, H*D) and (B, H, S, D) are the same numbers as in code that is not compiled."""
    run, flat = run_of(policy(Diagonal(0))), qkv(2)
    truth = forward(run, 0.5, flat)[0]
    given = [x.unflatten(-1, (HEADS, 128)).transpose(1, 2) if by_head else x for x in flat]
    run.begin_step(0.5)
    with as_current(run):
        way = attention_op(*given, HEADS, torch.tensor(0), LAYOUT, by_head, out_by_head, "", [])
    assert way.is_contiguous()
    assert torch.equal(way.transpose(1, 2).flatten(2) if out_by_head else way, truth)


@pytest.mark.parametrize("counted", [False, True])
def test_blocks_compiled_alone_share_code_but_not_patterns(counted: bool) -> None:
    """What a call says of its block is no help where plain Python says it, which then counts."""
    run, x = run_of(PlanPolicy(plan_of([Diagonal(0), Dense()], HEADS, 128), 1.0, 0.0, "torch")), qkv()
    outputs = []
    run.begin_step(0.5)
    with as_current(run):
        run.begin_forward(torch.device("cpu"), 0.5)
        run.tracker.begin_blocks(run.tracker.grid, fallback.NO_LAYER, counted, {})
        for layer in (0, 1):
            if not counted:
                run.tracker.begin_block(layer, None)
            outputs.append(attention_op(*x, HEADS, torch.tensor(0), LAYOUT, False, False, "", []))
    assert torch.equal(forward_by_operator(run, 0.5, x, numbers=[1])[0], outputs[1])
    assert torch.equal(forward_by_operator(run, 0.5, x, numbers=[0])[0], outputs[0])
    assert not torch.equal(outputs[0], outputs[1])


def test_the_run_counts_calls_of_blocks_that_only_it_can_count() -> None:
    run, x = run_of(PlanPolicy(plan_of([Diagonal(0), Dense()], HEADS, 128), 1.0, 0.0, "torch")), qkv()
    truth = forward_by_operator(run, 0.5, x)
    for _ in range(2):  # anew in each forward
        counted = forward_by_operator(run, 0.5, x, numbers=[COUNTED, COUNTED])
        assert all(torch.equal(one, other) for one, other in zip(counted, truth, strict=True))


@pytest.mark.parametrize(("exact", "sparse"), [(2.0, 4), (11.0, 0)])
def test_the_operator_follows_the_verdict_when_it_runs(exact: float, sparse: int) -> None:
    """And times the model's own attention too, which it calls where sparse attention lost."""
    clock, x = ToldClock(dense=10.0, exact=exact), qkv()
    run = run_of(PlanPolicy(plan_of([Diagonal(0)] * 4, HEADS, 128), 0.8, 0.0, "auto", KernelTuner()), clock)
    for sigma in (0.9, 0.5):
        outputs = forward_by_operator(run, sigma, x)
    assert clock.timed[: TRIES + 1] == [DENSE] * TRIES + [EXACT]
    assert sparse_calls(run) == sparse
    assert torch.equal(outputs[0], model_attention(*x, HEADS)) == (sparse == 0)
    assert dense_calls(run)[fallback.WARM_UP] == 4


def test_without_a_run_it_is_the_models_own_attention() -> None:
    x = qkv()
    out = attention_op(*x, HEADS, torch.tensor(0), LAYOUT, False, False, "", [])
    assert torch.equal(out, model_attention(*x, HEADS))
