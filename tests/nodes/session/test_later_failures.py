"""Kernels that fail, or are found to be wrong, after calls like theirs went well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from runs import forward, plan_of, policy, qkv, run_of, sparse_calls
from sparse_vdit.kernels.attention import BACKENDS, forget_failures
from sparse_vdit.kernels.backends import torch_backend
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.policies.kernel_tuner import KernelTuner, forget_times
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from told_clock import ToldClock

LAYERS = 3


class Fast:
    """A backend that computes as torch does, until it is told to fail."""

    choose = None

    def __init__(self) -> None:
        self.calls: list[bool] = []  # whether in 8 bits
        self.fails: set[bool] = set()

    def refusal(self, call: AttentionCall) -> None:
        return None

    def needs_self_test(self, device: torch.device) -> bool:
        return False

    def attention(self, call: AttentionCall) -> torch.Tensor:
        self.calls.append(call.int8)
        if call.int8 in self.fails:
            raise RuntimeError("trouble was asked for")
        return torch_backend.attention(call)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fast]:
    made = Fast()
    monkeypatch.setitem(BACKENDS, "triton", made)
    forget_failures(), forget_times()
    yield made
    forget_failures(), forget_times()


def test_a_backend_that_fails_once_is_left_in_all_layers(fast: Fast) -> None:
    run = run_of(policy(Diagonal(0), backend="auto", layers=LAYERS))
    forward(run, 0.7, qkv())
    assert len(fast.calls) == LAYERS
    fast.fails = {False, True}
    forward(run, 0.5, qkv())
    forward(run, 0.3, qkv())
    assert len(fast.calls) == LAYERS + 1, "it was asked again"
    assert sparse_calls(run) == 3 * LAYERS and run.stopped is None
    assert run.stats.total().backends.total() == 3 * LAYERS and "trouble was asked for" in run.stats.backend


def test_8_bits_that_fail_later_leave_the_exact_kernel(fast: Fast) -> None:
    plan = plan_of([Diagonal(0)] * LAYERS)
    times = ToldClock(dense=10.0, exact=4.0, int8=2.0)
    run = run_of(PlanPolicy(plan, 1.0, 0.0, "auto", KernelTuner()), times)
    x = qkv(heads=2, head_dim=64)
    forward(run, 0.7, x)
    fast.calls.clear()
    forward(run, 0.6, x)
    assert fast.calls == [True] * LAYERS, "8 bits had not won"
    fast.fails = {True}
    fast.calls.clear()
    forward(run, 0.5, x)
    forward(run, 0.4, x)
    assert fast.calls == [True] + [False] * 2 * LAYERS
    assert sparse_calls(run) == 4 * LAYERS and run.stats.backend.startswith("triton")
