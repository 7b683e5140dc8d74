"""Code that a compiler made with the pack's override is used in runs of the pack alone, whatever guards are dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from dense_attention import model_attention
from runs import HEADS, TOKENS, dense_calls, policy, run_forward, run_of, sparse_calls
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.hooks import compile_op
from sparse_vdit.nodes.host.hooks.blocks import begin_block


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


def qkv() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(1, TOKENS, HEADS * 128, generator=generator) for _ in range(3)]


@torch.inference_mode()
def test_code_with_the_override_ends_with_its_run(compiled: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    x, run = qkv(), run_of(policy(Diagonal(0), layers=1))

    def body(options: dict) -> torch.Tensor:
        run.forget_blocks()
        begin_block(0, options)
        return compiled(*x, options)

    monkeypatch.setattr(compile_op._here.state, "sampling", True)
    sparse = run_forward(run, 0.5, body)
    monkeypatch.setattr(compile_op._here.state, "sampling", False)
    assert sparse_calls(run) == 1
    plain = model_attention(*x, HEADS)
    assert not torch.allclose(sparse, plain)
    after = compiled(*x, {"optimized_attention_override": marked})
    assert torch.allclose(after, plain * 1.5)  # stale code would give `plain`


@torch.inference_mode()
def test_what_compiled_code_refuses_is_counted_at_every_forward(
    compiled: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is not asked about such calls, and would else take them for missing."""
    x, run = qkv(), run_of(policy(Diagonal(0), layers=1))
    monkeypatch.setattr(compile_op._here.state, "sampling", True)

    def body(options: dict) -> torch.Tensor:
        run.forget_blocks()
        begin_block(0, options)
        return compiled(*x, options)

    for number in range(3):
        out = run_forward(run, 0.5, body, (5, 8, 12))  # of a video that is larger than the calls
        assert torch.allclose(out, model_attention(*x, HEADS), atol=1e-6)
        assert dense_calls(run) == {fallback.OTHER_TOKENS: number + 1}
