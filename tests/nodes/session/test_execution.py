"""Which backend computes a sparse call, and when none does."""

from __future__ import annotations

import pytest
import torch
from dense_attention import model_attention
from runs import HEADS, dense_calls, forward, line, policy, qkv, run_of, sparse_calls
from sparse_vdit.kernels.backends import triton_backend
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.session import execution


def test_advice_to_take_backend_auto_is_given_once() -> None:
    run, x = run_of(policy(Diagonal(0), backend="compiled", layers=2)), qkv()
    assert all(torch.equal(out, model_attention(*x, HEADS)) for out in forward(run, 0.5, x))
    assert dense_calls(run) == {fallback.BACKEND_REFUSED: 2}
    assert "device cpu is not an NVIDIA GPU" in line(run)
    assert line(run).count("backend auto") == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_half_precision_without_fast_kernels_stays_dense(
    dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There torch alone is slower than the model's own attention; who names the backend gets it."""
    monkeypatch.setattr(triton_backend, "INTERPRETED", False)
    run = run_of(policy(Diagonal(0), backend=backend, layers=1))
    forward(run, 0.5, [x.to(dtype) for x in qkv()])
    dense = backend == "auto" and dtype == torch.bfloat16
    assert (sparse_calls(run), dense_calls(run)) == ((0, {fallback.NO_KERNELS: 1}) if dense else (1, {}))


@pytest.mark.parametrize(("backend", "dense"), [("auto", {fallback.NO_KERNELS: 1}), ("torch", {})])
def test_devices_that_are_not_timed_stay_dense_unless_torch_is_named(
    backend: str, dense: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "TIMED_ON", ("cuda",))
    run = run_of(policy(Diagonal(0), backend=backend, layers=1))
    forward(run, 0.5, qkv())
    assert dense_calls(run) == dense


def test_another_batch_or_dtype_is_another_kind_of_calls() -> None:
    """What was found for one is not taken for the other."""
    run = run_of(policy(Diagonal(0), layers=2))
    for batch, dtype in ((1, torch.float32), (2, torch.float32), (1, torch.float64)):
        x = [part.to(dtype) for part in qkv(batch)]
        for out in forward(run, 0.5, x):
            assert (out.shape, out.dtype) == (x[0].shape, dtype)
            assert not torch.equal(out, model_attention(*x, HEADS))
    assert sparse_calls(run) == 6


def test_a_difference_is_relative_to_the_truth() -> None:
    truth = torch.randn(2, 7, 3, 8, generator=torch.Generator().manual_seed(1))
    assert execution.relative_error(truth * 1.25, truth).item() == pytest.approx(0.25)
    assert execution.relative_error(truth, truth).item() == 0.0
    assert torch.isfinite(execution.relative_error(truth, torch.zeros_like(truth)))
