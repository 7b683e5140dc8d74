"""A worker of raylight without others: which models and calls are dense there. Runs on several ranks are in
`tests/integration/test_comfyui_raylight.py`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from comfyui_stand_ins import host_module
from model_stand_ins import AnimateWanModel, HunyuanVideo, wan
from runs import GRID, TOKENS, policy
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.models import detect
from torch import distributed as dist
from torch import nn

raylight = host_module("raylight")
PLAN = policy(Diagonal(0)).plan


def chosen(model: nn.Module, start: float = 0.25) -> object:
    """The policy for a model, or why all of it is dense."""
    schedule = SimpleNamespace(percent_to_sigma=lambda percent: 1 - percent)
    patcher = SimpleNamespace(
        model=SimpleNamespace(diffusion_model=model), get_model_object={"model_sampling": schedule}.get
    )
    return raylight._policy(patcher, PLAN, start, 0.9)


def test_only_wans_that_the_plan_fits_run_sparse() -> None:
    assert chosen(HunyuanVideo()) is fallback.ONLY_WAN
    assert chosen(AnimateWanModel()) == detect(AnimateWanModel())
    assert chosen(wan(PLAN.layers + 1, PLAN.heads)).reason.startswith("plan uniform is for a model")
    found = chosen(wan(PLAN.layers, PLAN.heads))
    assert (found.plan, found.sigma_start, found.sigma_end) == (PLAN, 0.75, pytest.approx(0.1))


def test_without_xfuser_nothing_is_split() -> None:
    assert raylight._begin(SimpleNamespace(), PLAN, 0.0, 1.0) is fallback.NO_RAYLIGHT


SHARD = -(-TOKENS // 3)
WIDE = PLAN.heads * PLAN.head_dim


@pytest.mark.parametrize(
    ("tokens", "keys", "heads", "width", "more", "why"),
    [(SHARD, SHARD, PLAN.heads, WIDE, False, None),
     (SHARD, SHARD, PLAN.heads, WIDE, True, fallback.MASKED),
     (SHARD, SHARD, PLAN.heads + 1, WIDE, False, fallback.OTHER_HEADS),
     (SHARD, SHARD, PLAN.heads, WIDE + 1, False, fallback.OTHER_HEADS),
     (SHARD, SHARD + 1, PLAN.heads, WIDE, False, fallback.OTHER_TOKENS),
     (SHARD + 1, SHARD + 1, PLAN.heads, WIDE, False, fallback.OTHER_TOKENS),
     (SHARD - 1, SHARD - 1, PLAN.heads, WIDE, False, fallback.OTHER_TOKENS)],
)  # fmt: skip
def test_calls_that_no_plan_is_about(
    monkeypatch: pytest.MonkeyPatch, tokens: int, keys: int, heads: int, width: int, more: bool, why: object
) -> None:
    """Of three ranks, by what each of them sees."""
    monkeypatch.setattr(dist, "get_world_size", lambda group: 3)
    monkeypatch.setattr(dist, "get_rank", lambda group: 1)
    ranks = raylight.Ranks(policy(Diagonal(0)), None, bool)
    ranks._grid = TokenGrid(*GRID)
    q, k = (torch.empty(1, length, width) for length in (tokens, keys))
    assert ranks._refusal(q, k, k, heads, more) is why
