"""Kernels of runs whose outputs a test changes, or that fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sparse_vdit.nodes.host.session import execution


def through(monkeypatch: pytest.MonkeyPatch, make: Callable[[int, torch.Tensor], torch.Tensor]) -> list[int]:
    """Kernels whose output goes through `make(number of the call, output)`; returns the list of calls so far."""
    plain, calls = execution.run_call, []

    def run_call(*args: object) -> torch.Tensor:
        calls.append(len(calls))
        return make(calls[-1], plain(*args))

    monkeypatch.setattr(execution, "run_call", run_call)
    return calls


def nan_in(
    heads: dict[int, tuple[int, ...]], value: float = torch.nan
) -> Callable[[int, torch.Tensor], torch.Tensor]:
    """A number that is not finite in an output of these heads, by the number of the call."""

    def make(number: int, out: torch.Tensor) -> torch.Tensor:
        for head in heads.get(number, ()):
            out[0, 17, head, 5] = value
        return out

    return make
