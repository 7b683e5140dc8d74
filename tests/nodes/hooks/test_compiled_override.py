"""Code that a compiler made with the pack's override is used in runs of the pack alone, whatever guards are dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from dense_attention import model_attention
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.attention import guarded, override
from sparse_vdit.nodes.host.attention.override import LAYER, LAYOUT, REFUSED, SEEN, attention_override
from sparse_vdit.nodes.host.reports import reasons
from sparse_vdit.nodes.host.runs.current import pop_run, push_run
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.plans.plan.plan import uniform_plan

GRID, HEADS = (5, 8, 11), 3
TOKENS = GRID[0] * GRID[1] * GRID[2]


def marked(func: Callable, *args: object, **kwargs: object) -> torch.Tensor:
    return func(*args, **kwargs) * 1.5


def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, transformer_options: dict) -> torch.Tensor:
    """Attention as ComfyUI calls it."""
    own = transformer_options.get("optimized_attention_override")
    options = {"transformer_options": transformer_options}
    return model_attention(q, k, v, HEADS) if own is None else own(model_attention, q, k, v, HEADS, **options)


@pytest.fixture
def compiled() -> Iterator[Callable]:
    """The forward compiled as ComfyUI's node compiles: without guards on transformer_options."""
    torch._dynamo.reset()

    def keep(guards: list) -> list[bool]:
        return ["transformer_options" not in guard.name for guard in guards]

    yield torch.compile(forward, backend="aot_eager", options={"guard_filter_fn": keep})
    torch._dynamo.reset()


@torch.inference_mode()
def test_code_with_the_override_ends_with_its_run(compiled: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(6)
    q, k, v = (torch.randn(1, TOKENS, HEADS * 128, generator=generator) for _ in range(3))
    run = Run(PlanEngine(uniform_plan("wan", 1, HEADS, 128, GRID, Diagonal(0)), 1.0, 0.0, "torch"), model_attention)
    run.reason = run.engine.reason(0.5)
    ours = {"optimized_attention_override": attention_override, LAYOUT: (*GRID, 0, 0), LAYER: 0, SEEN: False}
    push_run(run)
    monkeypatch.setattr(override, "sampling", True)
    guarded.begin_forward((*GRID, 0, 0), reasons.NO_LAYER, False)
    guarded.begin_block(0)
    sparse = compiled(q, k, v, ours)
    pop_run(run)
    monkeypatch.setattr(override, "sampling", False)
    assert run.ledger.sparse == 1
    plain = model_attention(q, k, v, HEADS)
    assert not torch.allclose(sparse, plain)
    after = compiled(q, k, v, {"optimized_attention_override": marked})
    assert torch.allclose(after, plain * 1.5)  # stale code would give `plain`


@torch.inference_mode()
def test_what_compiled_code_refuses_is_noted_at_every_forward(
    compiled: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is not asked about such calls, and would else take them for missing."""
    q, k, v = (torch.randn(1, TOKENS, HEADS * 128) for _ in range(3))
    run = Run(None, model_attention)
    push_run(run)
    monkeypatch.setattr(override, "sampling", True)
    try:
        for _ in range(3):
            refused = []
            guarded.begin_forward((*GRID, 1, 0), reasons.NO_LAYER, False)
            guarded.begin_block(0)
            options = {LAYOUT: (*GRID, 1, 0), LAYER: 0, SEEN: False, REFUSED: refused}
            ours = {"optimized_attention_override": attention_override, **options}
            assert torch.allclose(compiled(q, k, v, ours), model_attention(q, k, v, HEADS), atol=1e-6)
            assert refused == [reasons.OTHER_TOKENS]
    finally:
        pop_run(run)
