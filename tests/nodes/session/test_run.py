"""A run from its beginning to its end: which one is current, what of it is dense as a whole, what it lets go."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from dense_attention import model_attention
from runs import GRID, HEADS, dense_calls, forward, line, policy, qkv, run_of, sparse_calls
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.session import run as run_module
from sparse_vdit.nodes.host.session.call import Call, Computed
from sparse_vdit.nodes.host.session.run import Run, as_current, current_run, timing_dense


def test_runs_nest() -> None:
    outer, inner = run_of(policy(Diagonal(0))), run_of(policy(Diagonal(0)))
    assert current_run() is None
    with as_current(outer):
        with pytest.raises(ZeroDivisionError), as_current(inner):
            assert current_run() is inner
            raise ZeroDivisionError
        assert current_run() is outer
    assert current_run() is None


def test_a_run_can_be_freed_at_any_time_and_twice() -> None:
    run, x = run_of(policy(Diagonal(0))), qkv()
    run.free()
    forward(run, 0.5, x)
    run.free()
    run.free()
    assert (run.check.flags, run.options) == (None, None)
    assert sparse_calls(run) == 4


def test_a_forward_at_a_dense_noise_level_asks_the_policy_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run, x = run_of(policy(Diagonal(0), start=0.9, end=0.2)), qkv()
    for name in ("decide", "prepare"):
        monkeypatch.setattr(run.policy, name, lambda *args: pytest.fail("was asked"))
    for sigma in (0.95, 0.1):
        assert all(torch.equal(out, model_attention(*x, HEADS)) for out in forward(run, sigma, x))
    assert dense_calls(run) == {fallback.WARM_UP: 4, fallback.AFTER_END: 4}


def test_calls_in_a_cuda_graph_stay_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is captured is replayed in later steps, without asking the pack. ComfyUI captures blocks of some models."""
    monkeypatch.setattr(run_module, "captured", lambda device: True)
    run, x = run_of(policy(Diagonal(0), layers=1)), qkv()
    assert torch.equal(forward(run, 0.5, x)[0], model_attention(*x, HEADS))
    assert dense_calls(run) == {fallback.CAPTURED: 1}
    assert "--disable-cuda-graphs" in line(run)


def test_a_call_that_was_decided_before_asks_no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where ranks share a layer: this one has two of its three heads."""
    run, x = run_of(policy(Diagonal(0), layers=1)), [x.unflatten(-1, (HEADS, -1)) for x in qkv()]
    whole = run.policy
    whole.begin_step(0.5)
    sparse = whole.decide(Call(0, TokenGrid(*GRID), *x))
    run.begin_step(0.5)
    run.begin_forward(torch.device("cpu"))
    out = run.attend(Call(0, TokenGrid(*GRID), *x))
    monkeypatch.setattr(whole, "decide", lambda call: pytest.fail("was asked"))
    run.begin_forward(torch.device("cpu"))
    some = replace(sparse, head_lists=sparse.head_lists[1:])
    part = run.attend(Call(0, TokenGrid(*GRID), *(x[:, :, 1:] for x in x), heads=(1, 2), decided=some))
    assert torch.equal(part, out[:, :, 1:])
    assert sparse_calls(run) == 2


class Looking:
    """A policy that watches every other layer, and computes some calls itself."""

    title, shape, tuner, name = "wan, looking", (4, HEADS), None, "looking"
    plan_name, remark, expected = "looking", "", ""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.milliseconds: list[float] = []
        self.observer = self

    def begin_step(self, sigma: float) -> None:
        return None

    def prepare(self, *args: object) -> None:
        pass

    def take(self, call: Call) -> bool:
        return call.layer % 2 == 1

    def observe(self, call: Call) -> None:
        self.seen.append(call.layer)

    def spent(self, milliseconds: float) -> None:
        self.milliseconds.append(milliseconds)

    def decide(self, call: Call) -> object:
        return Computed(torch.full_like(call.q, 7.0), 0.25, self.name) if call.layer > 1 else fallback.PROFILING

    def summary(self) -> str:
        return ""

    def advice(self) -> str:
        return ""


def test_what_a_policy_computes_and_observes_is_counted_and_timed() -> None:
    made, x = Looking(), qkv()
    run = run_of(made)
    outputs = forward(run, 0.5, x)
    assert torch.equal(outputs[0], model_attention(*x, HEADS))
    assert (outputs[2] == 7).all() and (outputs[3] == 7).all()
    assert made.seen == [1, 3]
    assert len(made.milliseconds) == 2
    assert run.stats.milliseconds["looking"] == pytest.approx(sum(made.milliseconds))
    assert run.stats.seconds == 0
    assert dense_calls(run) == {fallback.PROFILING: 2}
    assert "2 sparse / 2 dense calls (measured by Profile Heads 2), backend looking" in line(run)


def test_a_run_holds_no_tensor_of_its_calls() -> None:
    """They are large, and the model frees them as it goes."""
    run = run_of(policy(Diagonal(0), layers=1))
    run.begin_step(0.5)
    run.begin_forward(torch.device("cpu"), 0.5)
    q, k, v = (x.unflatten(-1, (HEADS, 128)) for x in qkv())
    references = [weakref.ref(x) for x in (q, k, v)]
    out = run.attend(Call(0, TokenGrid(*GRID), q, k, v))
    references.append(weakref.ref(out))
    del q, k, v, out
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


def test_nobody_times_dense_calls_outside_of_runs() -> None:
    with timing_dense():
        pass
    run = Run(policy(Diagonal(0)))
    with as_current(run), timing_dense():  # no call was refused before
        pass
    assert not run.stats.milliseconds
