"""What the pack decides about a run, without ComfyUI: layouts from shapes, refusals, counting, the report's line."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from sparse_vdit.kernels.backends import triton_backend
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Dense, Diagonal, Skip
from sparse_vdit.nodes.host import plan_engine, reasons
from sparse_vdit.nodes.host.attention_op import attention_op, merge_heads, run_attention, split_heads
from sparse_vdit.nodes.host.blocks import COUNT, LAYER, SEEN
from sparse_vdit.nodes.host.current import current_run, pop_run, push_run
from sparse_vdit.nodes.host.engine import Call, Engine
from sparse_vdit.nodes.host.override import LAYOUT, OUTSIDE, attention_override, refusal
from sparse_vdit.nodes.host.plan_engine import PlanEngine
from sparse_vdit.nodes.host.profile_engine import ProfileEngine
from sparse_vdit.nodes.host.run import Run
from sparse_vdit.plans.plan import Band, Plan, Provenance, uniform_plan
from torch import nn

GRID = (5, 8, 11)
TOKENS = 5 * 8 * 11


def engine(
    pattern: object, start: float = 1.0, end: float = 0.0, layers: int = 4, backend: str = "torch"
) -> PlanEngine:
    return PlanEngine(uniform_plan("wan", layers, 3, 128, GRID, pattern), start, end, backend)


def qkv(batch: int = 2, tokens: int = TOKENS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(batch, tokens, 384, generator=generator) for _ in range(3)]


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


def test_what_launches_read_is_made_before_the_forward_and_in_the_pause() -> None:
    pauses = []

    @contextmanager
    def pause() -> Iterator[None]:
        pauses.append("begin")
        yield
        pauses.append("end")

    made = PlanEngine(uniform_plan("wan", 4, 3, 128, GRID, Diagonal(0)), 1.0, 0.0, "torch", pause)
    assert made.reason(0.5) is None
    made.prepare((*GRID, 0, 0), 2, torch.device("cpu"))
    assert pauses == ["begin", "end"] * 2  # lists, then what launches read of them
    lists, table = made.bound.lists(TokenGrid(*GRID), torch.device("cpu"))
    assert {"orders", (table[0][0] * 2, 3)} <= set(lists._cache)
    made.prepare((*GRID, 0, 0), 2, torch.device("cpu"))
    assert len(pauses) == 4


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


def test_dense_decisions_by_noise_level() -> None:
    plan = engine(Diagonal(0), start=0.9, end=0.2)
    assert [plan.reason(sigma) for sigma in (0.95, 0.9, 0.2, 0.1)] == [
        reasons.WARM_UP,
        None,
        None,
        reasons.AFTER_END,
    ]
    rounded = torch.tensor([0.9, 0.2]).tolist()  # as schedules are, to float32: just above and below
    assert rounded[0] != 0.9 and [plan.reason(sigma) for sigma in rounded] == [None, None]
    half = PlanEngine(uniform_plan("wan", 4, 3, 128, GRID, Dense(), sigma_high=0.8, sigma_low=0.4), 1.0, 0.0, "torch")
    assert half.reason(0.9) == half.reason(0.4) == reasons.NO_BAND
    assert half.reason(0.5) is None


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
    assert torch.equal(attention_op(*given, 3, 0, (*GRID, 0, 0), by_head, out_by_head, "", []), truth)
    assert run.ledger.sparse == 3
    assert merge_heads(truth.transpose(1, 2), True).shape == truth.shape


def test_the_op_is_well_behaved(run: Run) -> None:
    torch.library.opcheck(attention_op, (*qkv(1), 3, 0, (*GRID, 0, 0), False, False, "", []))


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


def test_all_heads_dense_is_the_models_own_attention() -> None:
    run = Run(engine(Dense(), backend="auto"), function=None)
    run.reason = run.engine.reason(0.5)
    assert run.attend(Call(0, (*GRID, 0, 0), *(split_heads(x, 3, False) for x in qkv()))) is None
    assert run.ledger.dense == {reasons.DENSE_HEADS: 1}


def test_a_video_too_small_for_the_patterns_is_told_from_a_dense_plan() -> None:
    """60 tokens are not even one full tile."""
    grid = (3, 4, 5)
    run = Run(engine(Diagonal(0), backend="auto"), function=None)
    run.reason = run.engine.reason(0.5)
    assert run.attend(Call(0, (*grid, 0, 0), *(split_heads(x, 3, False) for x in qkv(tokens=60)))) is None
    assert run.ledger.dense == {reasons.TOO_SMALL: 1}
    assert "3x4x5 tokens are too few for patterns that were measured on 5x8x11 tokens" in run.report()
    assert reasons.MENDS[reasons.TOO_SMALL] in run.report()


def test_plans_that_skip_many_heads_are_warned_of_where_they_run() -> None:
    run = Run(engine(Skip()), function=None)
    run.reason = run.engine.reason(0.5)
    for layer in range(2):
        assert run.attend(Call(layer, (*GRID, 0, 0), *(split_heads(x, 3, False) for x in qkv()))) is not None
    assert run.report().count("the plan skips 100% of the heads") == 1


def test_advice_to_take_backend_auto_is_given_once() -> None:
    run = Run(engine(Diagonal(0), backend="compiled"), function=None)
    run.reason = run.engine.reason(0.5)
    assert run.attend(Call(0, (*GRID, 0, 0), *(split_heads(x, 3, False) for x in qkv()))) is None
    assert "device cpu is not an NVIDIA GPU" in run.report()
    assert run.report().count("backend auto") == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_without_fast_kernels_stays_dense(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """There torch alone is slower than the model's own attention; who names the backend gets it."""
    monkeypatch.setattr(triton_backend, "INTERPRETED", False)
    for backend in ("auto", "torch"):
        run = Run(engine(Diagonal(0), backend=backend), function=None)
        run.reason = run.engine.reason(0.5)
        out = run.attend(Call(0, (*GRID, 0, 0), *(split_heads(x.to(dtype), 3, False) for x in qkv())))
        dense = backend == "auto" and dtype == torch.bfloat16
        assert (out is None) == dense
        assert run.ledger.dense == ({reasons.NO_KERNELS: 1} if dense else {})


@pytest.mark.parametrize("counted", [False, True])
def test_blocks_compiled_alone_share_code_but_not_patterns(counted: bool) -> None:
    """Compiled code holds the first block's number; what counts is the block at work."""
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
            outputs.append(attention_op(*qkv(), 3, 0, (*GRID, 0, 0), False, False, "", []))
        run.at_work.begin_forward()
        assert torch.equal(attention_op(*qkv(), 3, 1, (*GRID, 0, 0), False, False, "", []), outputs[1])
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


def test_every_reason_is_a_text_of_its_own() -> None:
    texts = [value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)]
    assert len(set(texts)) == len(texts) > 10


@pytest.mark.parametrize("made", [PlanEngine, ProfileEngine])
def test_engines_take_what_the_protocol_says(made: type) -> None:
    for name in ("reason", "prepare", "attention", "dense_timer", "told", "detail", "free"):
        said = inspect.signature(getattr(Engine, name)).parameters
        assert list(inspect.signature(getattr(made, name)).parameters) == list(said), name


def test_runs_nest_and_free_twice(run: Run) -> None:
    inner = Run(engine(Dense()), None)
    push_run(inner)
    assert current_run() is inner
    pop_run(inner)
    pop_run(inner)
    assert current_run() is run
    run.free()
    run.free()


def test_the_first_use_of_a_gpu_is_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_engine, "_announced", set())
    said = []
    for device in ("cpu", "cuda:0", "cuda:0", "cuda:1"):
        plan_engine.announce(torch.device(device), said.append)
    assert [line.split(";")[0] for line in said] == [f"preparing the kernels for cuda:{n}" for n in (0, 1)]
