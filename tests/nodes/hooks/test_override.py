"""What is made of an attention call: refusals by its shapes and settings, layouts in and out, who computes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from dense_attention import model_attention
from model_stand_ins import CogVideoXTransformer3DModel, VaceWanModel
from runs import (
    GRID,
    HEADS,
    TOKENS,
    attend,
    dense_calls,
    forward,
    in_blocks,
    line,
    policy,
    qkv,
    run_forward,
    run_of,
    sparse_calls,
)
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.fallback import Dense
from sparse_vdit.nodes.host.hooks.compile_op import CHAINED
from sparse_vdit.nodes.host.hooks.override import attention_override, refusal
from sparse_vdit.nodes.host.models import COGVIDEOX
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session.run import Run, as_current, current_run
from sparse_vdit.plans.plan.plan import uniform_plan


@pytest.fixture
def run() -> Run:
    """A run with a sparse plan at every noise level."""
    return run_of(policy(Diagonal(0)))


Q, K, V = qkv(2)
CALL = {"q": Q, "k": K, "v": V, "heads": HEADS}
WHY_NOT = Dense("why not")


@pytest.mark.parametrize(
    ("call", "state", "why"),
    [
        ({}, {}, None),
        ({"k": K[:, :7], "v": V[:, :7]}, {}, fallback.CROSS_ATTENTION),
        # a group of queries with a mask of its own
        ({"q": Q[:, :7], "mask": torch.zeros(1, 7, TOKENS)}, {}, fallback.MASKED),
        ({"q": Q[:, :7], "mask": torch.zeros(1, 7, TOKENS)}, {"grid": WHY_NOT}, fallback.CROSS_ATTENTION),
        ({}, {"attended": True}, fallback.CROSS_ATTENTION),  # a text as long as the video
        ({"mask": torch.ones(TOKENS, TOKENS)}, {}, fallback.MASKED),
        ({"mask": torch.zeros(1, 1, TOKENS)}, {}, None),
        ({"scale": 0.1}, {}, fallback.OWN_SCALE),
        ({"enable_gqa": True}, {}, fallback.OWN_SCALE),
        ({}, {"in_block": False}, fallback.NO_LAYER),
        ({}, {"in_block": False, "outside": fallback.REFINER}, fallback.REFINER),
        ({}, {"grid": WHY_NOT}, WHY_NOT),
        ({}, {"grid": WHY_NOT, "in_block": False}, WHY_NOT),
        ({}, {"grid": TokenGrid(*GRID, 1, 0)}, fallback.OTHER_TOKENS),
        ({"skip_reshape": True}, {}, fallback.OTHER_HEADS),
    ],
)
def test_refusals_by_static_facts(call: dict, state: dict, why: Dense | None) -> None:
    known = {"grid": TokenGrid(*GRID), "in_block": True, "outside": fallback.NO_LAYER, **state}
    assert refusal({**CALL, **call}, **known) == why


def test_only_calls_of_the_plan_are_counted_where_blocks_are() -> None:
    """What else attends in between changes no number."""
    model = CogVideoXTransformer3DModel()
    plan = uniform_plan(COGVIDEOX.name, 3, 2, 64, GRID, Diagonal(0))
    run, numbers = run_of(PlanPolicy(plan, 1.0, 0.0, "torch")), []
    x = qkv(tokens=TOKENS + 7, heads=2, head_dim=64)

    def body(options: dict) -> None:
        for tokens in (9, TOKENS + 7, 9, TOKENS + 7, TOKENS + 7, TOKENS + 7):
            attend([part[:, :tokens] for part in x], 2, options)
            numbers.append(run.tracker.count)

    run_forward(run, 0.5, body, model=model)
    assert numbers == [0, 1, 1, 2, 3, 4]
    assert sparse_calls(run) == 3
    assert dense_calls(run) == {fallback.OTHER_TOKENS: 2, fallback.NO_LAYER: 1}


class MultiTalkPatch:
    """By its name: a node that works on attention in a way of its own."""


def test_the_details_add_up(run: Run) -> None:
    """Calls by forward and by layer are all calls: sparse ones, dense ones, and those that no plan is about."""
    model, x = VaceWanModel(), qkv()

    def block(layer: int, options: dict) -> None:
        if layer == 1:
            attend(x, HEADS, options)
            attend(x, HEADS, options)
        if layer == 2:
            attend([part[:, :7] for part in x], HEADS, options)

    def body(options: dict) -> None:
        in_blocks(model, options, block)
        attend(x, HEADS, options)

    for sigma in (0.7, 0.5):
        run_forward(run, sigma, body, model=model)
    run_forward(run, 0.3, body, model=model, options={"patches": {"attn1_patch": [MultiTalkPatch()]}})
    detail = run.stats.detail()
    for parts in ("forwards", "layers"):
        calls = Counter()
        for part in detail[parts].values() if parts == "layers" else detail[parts]:
            calls.update(part.get("dense", {reason: n for reason, n in part.items() if reason != "sparse"}))
            calls["sparse"] += part.get("sparse", 0)
        assert calls == {**detail["dense"], "sparse": 2}, parts
    assert len(detail["dense"]) == 4
    assert list(detail["layers"]) == ["1", "2", "unknown"]
    assert [forward["sigma"] for forward in detail["forwards"]] == pytest.approx([0.7, 0.5, 0.3])


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("out_by_head", [False, True])
def test_layouts_in_and_out(run: Run, by_head: bool, out_by_head: bool) -> None:
    """(B, S, H*D) and (B, H, S, D) are the same numbers."""
    flat = qkv(2)
    truth = forward(run, 0.5, flat, own=never)[0]
    given = [x.unflatten(-1, (HEADS, 128)).transpose(1, 2) if by_head else x for x in flat]
    layouts = {"skip_reshape": by_head, "skip_output_reshape": out_by_head}
    way = forward(run, 0.5, given, own=never, **layouts)[0]
    if out_by_head:
        way = way.transpose(1, 2).flatten(2)
    assert torch.equal(way, truth)
    assert sparse_calls(run) == 8


def never(*args: object, **kwargs: object) -> None:
    pytest.fail("went dense")


def test_sparse_self_attention_beside_dense_cross_attention(run: Run) -> None:
    """Which gets all that it was given, and is in no report."""
    q, k, v = x = qkv()
    calls = []

    def own(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append((args, kwargs))
        return args[0]

    def block(layer: int, options: dict) -> torch.Tensor:
        attend(x, HEADS, options, own, _inside_attn_wrapper=True)
        return attend([q, k[:, :7], v[:, :7]], HEADS, options, own, _inside_attn_wrapper=True)

    model = VaceWanModel()
    outputs = run_forward(run, 0.5, lambda options: in_blocks(model, options, block), model=model)
    assert all(torch.equal(out, q) for out in outputs)
    assert sparse_calls(run) == 4
    assert dense_calls(run) == {fallback.CROSS_ATTENTION: 4}
    assert run.stats.total().self_attention() == {}
    assert "4 sparse / 0 dense calls," in line(run)
    assert all(args[3] == HEADS and kwargs["_inside_attn_wrapper"] for args, kwargs in calls)
    assert len(calls) == 4


def test_a_text_as_long_as_the_video_is_told_by_the_order_of_a_blocks_calls(run: Run) -> None:
    """The second call of a block of the same shape is cross-attention, and the next block's first one is not."""
    x, model = qkv(), VaceWanModel()

    def block(layer: int, options: dict) -> list[torch.Tensor]:
        return [attend(x, HEADS, options) for _ in range(2)]

    outputs = run_forward(run, 0.5, lambda options: in_blocks(model, options, block), model=model)
    assert all(torch.equal(second, model_attention(*x, HEADS)) for _, second in outputs)
    assert (sparse_calls(run), dense_calls(run)) == (4, {fallback.CROSS_ATTENTION: 4})


def plus_one(function: Callable, *args: object, **kwargs: object) -> torch.Tensor:
    return function(*args, **kwargs) + 1


def test_dense_calls_go_to_the_chained_override() -> None:
    run, x = run_of(policy(Diagonal(0), start=0.4), chained=plus_one), qkv()
    dense = model_attention(*x, HEADS)
    assert all(torch.equal(out, dense + 1) for out in forward(run, 0.5, x))
    assert dense_calls(run) == {fallback.WARM_UP: 4}


def test_without_a_run_everything_is_dense() -> None:
    x = qkv()
    assert current_run() is None
    for chained, more in ((None, 0), (plus_one, 1)):
        out = attention_override(model_attention, *x, heads=HEADS, transformer_options={CHAINED: chained})
        assert torch.equal(out, model_attention(*x, HEADS) + more)


def test_calls_outside_of_a_seen_forward_stay_dense(run: Run) -> None:
    """Another node runs the model past the pack's wrappers."""
    x = qkv()
    with as_current(run):
        run.begin_step(0.5)
        run.begin_forward(torch.device("cpu"), 0.5)
        out = attention_override(model_attention, *x, heads=HEADS, transformer_options={})
    assert torch.equal(out, model_attention(*x, HEADS))
    assert dense_calls(run) == {fallback.UNSEEN_FORWARD: 1}
