"""What the pack decides about a run, without ComfyUI: refusals, layouts in and out, counting, the report's line."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from host_runs import GRID, TOKENS, engine, qkv
from sparse_vdit.kernels.patterns import Dense, Diagonal
from sparse_vdit.nodes.host.attention.attention_op import attention_op, merge_heads, run_attention, split_heads
from sparse_vdit.nodes.host.attention.blocks import COUNT, LAYER, SEEN
from sparse_vdit.nodes.host.attention.override import LAYOUT, OUTSIDE, attention_override, refusal
from sparse_vdit.nodes.host.reports import reasons
from sparse_vdit.nodes.host.runs.current import current_run, pop_run, push_run
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance
from torch import nn


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (split_heads(x, 3, False).transpose(1, 2) for x in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.fixture
def run() -> Run:
    """A current run with a sparse plan, about to run a forward at sigma .5."""
    run = Run(engine(Diagonal(0)), function=lambda q, k, v, heads, **kwargs: dense(q, k, v))
    run.reason = run.engine.reason(0.5)
    push_run(run)
    yield run
    pop_run(run)


def test_refusals_by_static_facts() -> None:
    q, k, v = qkv()
    call = {"q": q, "k": k, "v": v, "heads": 3}
    options = {LAYOUT: (*GRID, 0, 0), SEEN: False, LAYER: 1}
    assert refusal(call, options) is None
    part = {"q": q[:, :7], "mask": torch.zeros(1, 7, TOKENS)}
    assert refusal({**call, "k": k[:, :7], "v": v[:, :7]}, options) == reasons.CROSS_ATTENTION
    assert refusal({**call, **part}, options) == reasons.MASKED  # a group of queries with a mask of its own
    assert refusal(call, {**options, SEEN: True}) == reasons.CROSS_ATTENTION  # a text as long as the video
    assert refusal({**call, "mask": torch.ones(TOKENS, TOKENS)}, options) == reasons.MASKED
    assert refusal({**call, "mask": torch.zeros(1, 1, TOKENS)}, options) is None
    assert refusal({**call, "scale": 0.1}, options) == reasons.OWN_SCALE
    assert refusal({**call, "enable_gqa": True}, options) == reasons.OWN_SCALE
    outside = {LAYOUT: options[LAYOUT]}
    assert refusal(call, outside) == reasons.NO_LAYER
    assert refusal(call, {**outside, OUTSIDE: reasons.REFINER}) == reasons.REFINER
    assert refusal(call, {**outside, SEEN: True, COUNT: [1]}) is None  # counted blocks make one call each
    assert refusal(call, {LAYER: 1}) == reasons.UNSEEN_FORWARD
    assert refusal(call, {**options, LAYOUT: "why not"}) == "why not"
    assert refusal(call, {**options, LAYOUT: (*GRID, 1, 0)}) == reasons.OTHER_TOKENS
    assert refusal({**call, "skip_reshape": True}, options) == reasons.OTHER_HEADS


def test_only_calls_of_the_plan_are_counted(run: Run) -> None:
    """Where blocks are counted, what else attends in between changes no number."""
    q, k, v = qkv()
    options = {LAYOUT: (*GRID, 0, 0), COUNT: [0]}
    run.begin_forward(torch.device("cpu"))
    run.at_work.begin_blocks(True, options)
    for tokens in (7, TOKENS, 7, TOKENS):
        call = (x[:, :tokens] for x in (q, k, v))
        attention_override(lambda q, *rest, **kwargs: q, *call, heads=3, transformer_options=options)
    assert run.at_work.count == run.ledger.sparse == 2
    assert run.ledger.dense == {reasons.OTHER_TOKENS: 2}


def test_the_details_add_up(run: Run) -> None:
    """Calls by forward and by layer are all calls: sparse ones, dense ones, and those that no plan is about."""
    q, k, v = qkv()
    layout = (*GRID, 0, 0)
    for sigma in (0.7, 0.5):
        run.begin_forward(torch.device("cpu"), sigma)
        for options in (
            {LAYOUT: layout, LAYER: 1},
            {LAYOUT: layout, LAYER: 1, SEEN: True},
            {LAYOUT: (*GRID, 1, 0), LAYER: 2},
            {LAYOUT: "no layout known", LAYER: 2},
            {LAYOUT: layout, OUTSIDE: reasons.VACE_BLOCK},
        ):
            attention_override(lambda q, *rest, **kwargs: q, q, k, v, heads=3, transformer_options=options)
    detail = run.detail()
    for parts in ("forwards", "layers"):
        calls = Counter()
        for part in detail[parts].values() if parts == "layers" else detail[parts]:
            calls.update(part.get("dense", {reason: n for reason, n in part.items() if reason != "sparse"}))
            calls["sparse"] += part.get("sparse", 0)
        assert calls == {**detail["dense"], "sparse": 2}, parts
    assert len(detail["dense"]) == 4
    assert list(detail["layers"]) == ["1", "2", "unknown"]
    json.dumps(detail)


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("out_by_head", [False, True])
def test_layouts_in_and_out(run: Run, by_head: bool, out_by_head: bool) -> None:
    """(B, S, H*D) and (B, H, S, D) are the same numbers, through the Python way and through the compiled one."""
    flat = qkv()
    given = [x.unflatten(-1, (3, 128)).transpose(1, 2) if by_head else x for x in flat]
    truth = run_attention(*flat, 3, 0, (*GRID, 0, 0), False, False, lambda: pytest.fail("went dense"))
    if out_by_head:
        truth = truth.unflatten(-1, (3, 128)).transpose(1, 2)
    way = run_attention(*given, 3, 0, (*GRID, 0, 0), by_head, out_by_head, lambda: pytest.fail("went dense"))
    assert torch.equal(way, truth)
    assert torch.equal(attention_op(*given, 3, torch.tensor(0), (*GRID, 0, 0), by_head, out_by_head, "", []), truth)
    assert run.ledger.sparse == 3
    assert merge_heads(truth.transpose(1, 2), True).shape == truth.shape


def test_the_op_is_well_behaved(run: Run) -> None:
    torch.library.opcheck(attention_op, (*qkv(1), 3, torch.tensor(0), (*GRID, 0, 0), False, False, "", []))


def test_override_runs_sparse_and_counts_dense_by_reason(run: Run) -> None:
    q, k, v = qkv()
    options = {LAYOUT: (*GRID, 0, 0)}
    calls = []

    def function(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(kwargs)
        return args[0]

    for layer in range(2):
        options[LAYER], options[SEEN] = layer, False
        kwargs = {"heads": 3, "transformer_options": options, "_inside_attn_wrapper": True}
        attention_override(function, q, k, v, **kwargs)
        attention_override(function, q, k[:, :7], v[:, :7], **kwargs)
    assert run.ledger.sparse == 2
    assert run.ledger.dense == {reasons.CROSS_ATTENTION: 2}
    assert run.ledger.dense_reasons() == {}
    assert all(call["_inside_attn_wrapper"] for call in calls)
    assert len(calls) == 2


def test_dense_calls_go_to_the_chained_override(run: Run) -> None:
    q, k, v = qkv()
    run.reason = reasons.WARM_UP
    options = {
        LAYOUT: (*GRID, 0, 0),
        LAYER: 0,
        "sparse_vdit_chained": lambda func, *a, **kw: func(*a, **kw) + 1,
    }
    out = attention_override(lambda q, *rest, **kwargs: q, q, k, v, heads=3, transformer_options=options)
    assert torch.equal(out, q + 1)
    assert run.ledger.dense == {reasons.WARM_UP: 1}


def test_without_a_run_everything_is_dense() -> None:
    q, k, v = qkv()
    assert current_run() is None
    options = {LAYOUT: (*GRID, 0, 0), LAYER: 0}
    out = attention_override(lambda q, *rest, **kwargs: q, q, k, v, heads=3, transformer_options=options)
    assert torch.equal(out, q)


@pytest.mark.parametrize("counted", [False, True])
def test_blocks_compiled_alone_share_code_but_not_patterns(counted: bool) -> None:
    """What a call says of its block is no help where plain Python says it, which then counts."""
    patterns = (Diagonal(0), Dense())
    plan = Plan("wan", 2, 3, 128, GRID, patterns, (Band(1.0, 0.0, ((0,) * 3, (1,) * 3)),), "measured", Provenance())
    run = Run(PlanEngine(plan, 1.0, 0.0, "torch"), function=None)
    run.reason = run.engine.reason(0.5)
    push_run(run)
    try:
        outputs = []
        run.at_work.begin_blocks(counted, {})
        for layer in (0, 1):
            if not counted:
                run.at_work.layer = layer
            outputs.append(attention_op(*qkv(), 3, torch.tensor(0), (*GRID, 0, 0), False, False, "", []))
        run.at_work.begin_forward()
        assert torch.equal(attention_op(*qkv(), 3, torch.tensor(1), (*GRID, 0, 0), False, False, "", []), outputs[1])
    finally:
        pop_run(run)
    assert not torch.equal(outputs[0], outputs[1])


def test_report_line() -> None:
    run = Run(None, None)
    run.ledger.dense.update({reasons.WARM_UP: 24, reasons.CROSS_ATTENTION: 120})
    run.ledger.sparse, run.ledger.density_sum, run.ledger.backend, run.ledger.seconds = 96, 96 * 0.31, "torch", 1.234
    assert run.report() == (
        "Sparse-vDiT: 96 sparse / 24 dense calls (warm-up 24), mean density 0.31, backend torch, "
        "1234 ms in sparse attention"
    )
    run.ledger.note("said once")
    run.ledger.note("said once")
    assert run.report().endswith("; said once")
    assert Run(None, None, refusal="why").report() == "Sparse-vDiT: everything runs dense: why"


@pytest.mark.parametrize(
    ("sparse", "dense", "helps"),
    [
        (75, {reasons.OTHER_TOKENS: 25}, None),  # a quarter is not yet much
        (74, {reasons.OTHER_TOKENS: 26}, reasons.OTHER_TOKENS),
        (4, {reasons.OTHER_TOKENS: 26, reasons.REFUSED: 30, reasons.WARM_UP: 40}, reasons.REFUSED),
        (74, {reasons.OTHER_TOKENS: 26, reasons.CROSS_ATTENTION: 500}, reasons.OTHER_TOKENS),  # which are no plan's
        (1, dict.fromkeys(reasons.INTENDED, 90), None),
        (10, {"guides that are not whole frames": 90}, None),  # says itself what there is to say
    ],
)
def test_what_keeps_much_of_a_sparse_run_dense_is_said_with_its_mend(
    sparse: int, dense: dict, helps: str | None
) -> None:
    run = Run(None, None)
    run.ledger.sparse = sparse
    run.ledger.dense.update(dense)
    line = run.report()
    assert [mend for mend in reasons.MENDS.values() if mend in line] == ([reasons.MENDS[helps]] if helps else [])
    assert ("much ran dense" in line) == bool(helps)


def test_every_reason_is_a_text_of_its_own() -> None:
    texts = [value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)]
    assert len(set(texts)) == len(texts) > 10


def test_runs_nest_and_free_twice(run: Run) -> None:
    inner = Run(engine(Dense()), None)
    push_run(inner)
    assert current_run() is inner
    pop_run(inner)
    pop_run(inner)
    assert current_run() is run
    run.free()
    run.free()
