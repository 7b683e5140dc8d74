"""Masks on text alone go with the kernels, all others stay dense."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from model_stand_ins import GRID, TOKENS, hunyuan_run, qkv
from sparse_vdit.kernels.patterns import Skip
from sparse_vdit.nodes.host.attention.text_mask import is_key_mask, text_bias
from sparse_vdit.nodes.host.reports import reasons
from sparse_vdit.nodes.host.runs.engine import Call
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.plans.plan.plan import uniform_plan
from tolerances import assert_close
from torch.multiprocessing.reductions import StorageWeakRef


@pytest.fixture
def run() -> Iterator[Run]:
    with hunyuan_run() as made:
        yield made


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
    layout, known = (*GRID, 8, 3), {}
    mask = torch.zeros(1, 1, TOKENS + 11)
    mask[..., 5:8], mask[..., -1] = torch.finfo(torch.float32).min, -2.0
    bias = text_bias(known, mask, layout, 2)
    assert bias.tolist() == [[*[0.0] * 5, *[torch.finfo(torch.float32).min] * 3, 0.0, 0.0, -2.0]] * 2
    assert text_bias(known, mask, layout, 2) is bias
    for column in (8, 8 + TOKENS - 1):
        spoiled = mask.clone()
        spoiled[..., column] = 1e-3
        assert text_bias(known, spoiled, layout, 2) == reasons.MASKED
    hidden = torch.ones(2, 1, 1, TOKENS + 11, dtype=torch.bool)
    hidden[1, ..., :2] = False
    assert text_bias(known, hidden, layout, 2).isneginf().sum(1).tolist() == [0, 2]
    hidden[1, ..., 100] = False
    assert text_bias({}, hidden, layout, 2) == reasons.MASKED


def test_no_mask_is_held_and_none_is_taken_for_another() -> None:
    """Held, its memory would outlive the forward that ComfyUI records. Memory that was freed is often used anew."""
    layout, known = (*GRID, 8, 3), {}
    for hidden in (1, 2, 3):
        mask = torch.zeros(1, 1, TOKENS + 11)
        mask[..., :hidden] = -torch.inf
        of_mask = StorageWeakRef(mask.untyped_storage())
        assert text_bias(known, mask, layout, 1).isneginf().sum() == hidden
        del mask
        assert of_mask.expired()


def test_masked_text_is_hidden_from_every_query(run: Run) -> None:
    """What hidden keys hold must not matter, and without the mask it does."""
    layout = (*GRID, 11, 0)
    q, k, v = qkv()
    mask = torch.zeros(1, 1, TOKENS + 11)
    mask[..., 6:11] = torch.finfo(torch.float32).min
    outputs = []
    for scale in (1.0, 100.0):
        other = v.clone()
        other[:, 6:11] *= scale
        outputs.append([run.attend(Call(0, layout, q, k, other, m)) for m in (mask, None)])
    assert_close(outputs[0][0], outputs[1][0])
    assert not torch.allclose(outputs[0][1], outputs[1][1], atol=1e-2)
    mask[..., 50] = -1.0
    run.biases.clear()
    assert run.attend(Call(0, layout, q, k, v, mask)) is None
    assert run.ledger.dense == {reasons.MASKED: 1}


def test_masked_text_under_skipped_heads_stays_dense() -> None:
    """Their text attends all; but a plan may not hide what some query needs."""
    grid = (4, 8, 8)
    made = Run(PlanEngine(uniform_plan("x", 1, 2, 128, grid, Skip()), 1.0, 0.0, "torch"), None)
    made.reason = made.engine.reason(0.5)
    q, k, v = (x[:, : 256 + 8] for x in qkv())
    out = made.attend(Call(0, (*grid, 8, 0), q, k, v, torch.zeros(1, 1, 264)))
    assert (out is None) == bool(made.ledger.dense)  # sparse or refused with its reason, never an error
