"""Candidates are judged in parts that fit the free memory."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from sparse_vdit.nodes.host.session.memory import free_memory
from sparse_vdit.plans.profile.errors import CandidateEvaluator
from test_profiler import CANDIDATES, GRID, TILES, inputs

CPU = torch.device("cpu")


def test_parts_of_rows_fit_the_free_memory() -> None:
    q, k, v = inputs()
    evaluator, head_dim = CandidateEvaluator(GRID, CANDIDATES, 100, *TILES), q.shape[-1]
    plain = evaluator.errors(q, k, v, None, torch.Generator().manual_seed(0))
    unbounded = evaluator._part_rows(head_dim, CPU, None)
    assert evaluator._part_rows(head_dim, CPU, 1 << 40) == unbounded
    few = next(free for free in range(0, 1 << 30, 10_000) if fits(evaluator, head_dim, free))
    assert evaluator._part_rows(head_dim, CPU, few) < unbounded
    bounded = evaluator.errors(q, k, v, None, torch.Generator().manual_seed(0), free=few)
    torch.testing.assert_close(plain.projected, bounded.projected)
    with pytest.raises(ValueError, match=r"takes \d+ MB at least, 0 MB are free on cpu"):
        evaluator.errors(q, k, v, None, torch.Generator().manual_seed(0), free=1000)


def fits(evaluator: CandidateEvaluator, head_dim: int, free: int) -> bool:
    try:
        return evaluator._part_rows(head_dim, CPU, free) > 0
    except ValueError:
        return False


def test_comfyui_says_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    management = SimpleNamespace(get_free_memory=lambda device: 7.0 if device == CPU else 0.0)
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    assert free_memory(CPU) == 7
    monkeypatch.delitem(sys.modules, "comfy.model_management")
    assert free_memory(CPU) is None
