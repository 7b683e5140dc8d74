"""Masks on text alone go with the kernels, all others stay dense."""

from __future__ import annotations

import pytest
import torch
from runs import dense_calls, forward, run_of, sparse_calls
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal, Pattern, Skip
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session import text_mask
from sparse_vdit.nodes.host.session.run import Run
from sparse_vdit.nodes.host.session.text_mask import is_key_mask, text_bias
from sparse_vdit.plans.plan.plan import uniform_plan
from tolerances import assert_close
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

GRID, TEXT = (5, 7, 9), 11
TOKENS = 5 * 7 * 9


def qkv() -> list[Tensor]:
    """(B, S, H*D) of text and video."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(2, TEXT + TOKENS, 2 * 128, generator=generator) for _ in range(3)]


def run(pattern: Pattern | None = None, grid: tuple[int, int, int] = GRID, layers: int = 2) -> Run:
    """On a HunyuanVideo, which has text in its self-attention."""
    plan = uniform_plan("hunyuan_video", layers, 2, 128, grid, pattern or Diagonal(0))
    return run_of(PlanPolicy(plan, 1.0, 0.0, "torch"))


@pytest.mark.parametrize(
    ("shape", "dtype", "good"),
    [
        ((1, 1, 326), torch.float32, True),
        ((2, 1, 1, 326), torch.bool, True),
        ((1, 326), torch.float32, False),  # ComfyUI reads two axes as queries and keys
        ((1, 1, 325), torch.float32, False),
        ((3, 1, 326), torch.float32, False),
        ((1, 326, 326), torch.float32, False),
        ((1, 2, 1, 326), torch.float32, False),
        ((1, 1, 326), torch.int64, False),
    ],
)
def test_masks_that_are_the_same_for_all_queries(shape: tuple, dtype: torch.dtype, good: bool) -> None:
    assert is_key_mask(torch.zeros(shape, dtype=dtype), 2, 326) == good


def test_only_masks_on_text_become_a_bias() -> None:
    layout, known = TokenGrid(*GRID, 8, 3), {}
    mask = torch.zeros(1, 1, TOKENS + 11)
    mask[..., 5:8], mask[..., -1] = torch.finfo(torch.float32).min, -2.0
    bias = text_bias(known, mask, layout, 2)
    assert bias.tolist() == [[*[0.0] * 5, *[torch.finfo(torch.float32).min] * 3, 0.0, 0.0, -2.0]] * 2
    assert text_bias(known, mask, layout, 2) is bias
    for column in (8, 8 + TOKENS - 1):
        spoiled = mask.clone()
        spoiled[..., column] = 1e-3
        assert text_bias(known, spoiled, layout, 2) == fallback.MASKED
    hidden = torch.ones(2, 1, 1, TOKENS + 11, dtype=torch.bool)
    hidden[1, ..., :2] = False
    assert text_bias(known, hidden, layout, 2).isneginf().sum(1).tolist() == [0, 2]
    hidden[1, ..., 100] = False
    assert text_bias({}, hidden, layout, 2) == fallback.MASKED


def test_no_mask_is_held_and_none_is_taken_for_another() -> None:
    """Held, its memory would outlive the forward that ComfyUI records. Memory that was freed is often used anew."""
    layout, known = TokenGrid(*GRID, 8, 3), {}
    for hidden in (1, 2, 3):
        mask = torch.zeros(1, 1, TOKENS + 11)
        mask[..., :hidden] = -torch.inf
        of_mask = StorageWeakRef(mask.untyped_storage())
        assert text_bias(known, mask, layout, 1).isneginf().sum() == hidden
        del mask
        assert of_mask.expired()


def test_masked_text_is_hidden_from_every_query() -> None:
    """What hidden keys hold must not matter, and without the mask it does."""
    q, k, v = qkv()
    mask = torch.zeros(1, 1, TEXT + TOKENS)
    mask[..., 6:11] = torch.finfo(torch.float32).min
    made, outputs = run(), []
    for scale in (1.0, 100.0):
        other = v.clone()
        other[:, 6:11] *= scale
        for given in (mask, None):
            outputs.append(forward(made, 0.5, [q, k, other], (*GRID, TEXT), mask=given)[1])
    hidden, shown, hidden_large, shown_large = outputs
    assert_close(hidden, hidden_large)
    assert not torch.allclose(shown, shown_large, atol=1e-2)
    assert sparse_calls(made) == 8
    mask[..., 50] = -1.0  # the same tensor, in a forward that follows
    forward(made, 0.4, [q, k, v], (*GRID, TEXT), mask=mask)
    assert dense_calls(made) == {fallback.MASKED: 2}


def test_the_values_of_a_mask_are_read_once_in_a_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device is waited for; all blocks get the same mask."""
    read, plain = [], text_mask._text_bias
    monkeypatch.setattr(text_mask, "_text_bias", lambda *args: read.append(1) or plain(*args))
    made, mask = run(layers=5), torch.zeros(1, 1, TEXT + TOKENS)
    for count in (1, 2):
        forward(made, 0.5, qkv(), (*GRID, TEXT), mask=mask)
        assert len(read) == count
    assert sparse_calls(made) == 10


def test_masked_text_under_skipped_heads() -> None:
    """Their text attends all; but a plan may not hide what some query needs: sparse or dense for a reason."""
    grid = (4, 8, 8)
    made, x = run(Skip(), grid, 2), [part[:, : 256 + 8] for part in qkv()]
    forward(made, 0.5, x, (*grid, 8), mask=torch.zeros(1, 1, 264))
    assert sparse_calls(made) + sum(dense_calls(made).values()) == 2
    assert fallback.KERNEL_FAILED not in dense_calls(made)
