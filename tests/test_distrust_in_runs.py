"""Runs on cards whose kernels break, are wrong, or find no memory: the video is right, and the report says what was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from dense_attention import model_attention
from host_runs import TOKENS, qkv
from sparse_vdit.kernels import attention
from sparse_vdit.kernels.attention import forget_failures
from sparse_vdit.kernels.backends import torch_backend
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.attention.attention_op import run_attention
from sparse_vdit.nodes.host.runs.current import pop_run, push_run
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.nodes.host.speed.race import Race
from sparse_vdit.plans.binding import BoundPlan
from sparse_vdit.plans.plan import uniform_plan
from test_trust import broken, fake_backend, out_of_memory, spoiled

LAYERS, HEADS, GRID = 3, 3, (5, 8, 11)
PLAN = uniform_plan("wan", LAYERS, HEADS, 128, GRID, Diagonal(0))


@pytest.fixture(autouse=True)
def trusting() -> Iterator[None]:
    """Nothing is known of any backend, before and after."""
    forget_failures()
    yield
    forget_failures()


def wrong_for_this_model(call: AttentionCall) -> torch.Tensor:
    """Right in the self-test, wrong on the model's own size."""
    out = torch_backend.attention(call)
    return out * 1.2 if call.q.shape[1] == TOKENS else out


def forward(race: Race | None = None) -> tuple[Run, list[torch.Tensor], list[torch.Tensor]]:
    """A run of one forward in bf16: the run, its outputs, and what dense and sparse attention by torch give."""
    engine = PlanEngine(PLAN, 1.0, 0.0, "auto", race=race)
    run = Run(engine, model_attention)
    x = [part.to(torch.bfloat16) for part in qkv(1)]
    push_run(run)
    run.reason = run.engine.reason(0.5)
    run.begin_forward(torch.device("cpu"), 0.5)

    def dense() -> torch.Tensor:
        return model_attention(*x, HEADS)

    out = [run_attention(*x, HEADS, layer, (*GRID, 0, 0), False, False, dense) for layer in range(LAYERS)]
    pop_run(run)
    lists, table = BoundPlan(PLAN).lists(TokenGrid(*GRID), "cpu")
    heads = [part.unflatten(2, (HEADS, 128)) for part in x]
    sparse = torch_backend.attention(AttentionCall(*heads, lists, table[0][0])).flatten(2)
    return run, out, [dense(), sparse]


@pytest.mark.parametrize(
    ("triton", "test", "message"),
    [
        (broken, False, "backend compiled (triton: it failed: fatal error: Python.h: No such file)"),
        (broken, True, "compiled (triton: its self-test failed: fatal error: Python.h: No such file)"),
        (spoiled, True, "the output is wrong, relative error 1.0e-01, at most 1e-02 is right)"),
    ],
)
def test_the_shipped_kernels_take_over(monkeypatch, triton, test, message) -> None:
    found = {"triton": fake_backend(triton, test=test), "compiled": fake_backend(), "torch": torch_backend}
    monkeypatch.setattr(attention, "BACKENDS", found)
    run, out, (_, sparse) = forward()
    assert all(torch.equal(one, sparse) for one in out)
    assert run.ledger.sparse == LAYERS and message in run.report(), run.report()


def test_a_run_without_kernels_is_dense(monkeypatch) -> None:
    found = {"triton": fake_backend(broken), "compiled": fake_backend(spoiled), "torch": torch_backend}
    monkeypatch.setattr(attention, "BACKENDS", found)
    run, out, (dense, _) = forward()
    assert all(torch.equal(one, dense) for one in out)
    report = run.report()
    assert "no fast kernels here: triton: its self-test failed" in report and "compiled: its self-test" in report


def test_a_lack_of_memory_makes_this_run_dense_and_the_next_one_sparse(monkeypatch) -> None:
    module = fake_backend(out_of_memory, test=False)
    monkeypatch.setattr(attention, "BACKENDS", {"triton": module, "torch": torch_backend})
    run, out, (dense, _) = forward()
    assert all(torch.equal(one, dense) for one in out)
    assert "memory ran out in sparse attention" in run.report()
    module.attention = torch_backend.attention
    run, out, (_, sparse) = forward()
    assert all(torch.equal(one, sparse) for one in out) and "backend triton" in run.report()


def test_what_is_wrong_on_the_models_own_data_is_out_of_the_race(monkeypatch) -> None:
    found = {"triton": fake_backend(wrong_for_this_model), "compiled": fake_backend(), "torch": torch_backend}
    monkeypatch.setattr(attention, "BACKENDS", found)
    run, out, both = forward(Race(("a model",)))
    assert all(any(torch.equal(one, right) for right in both) for one in out), "a wrong output was used"
    kinds = {kind[0]: text for kind, text in attention._failures.items()}
    assert list(kinds) == ["triton"] and "its output is wrong on the model's own data" in kinds["triton"]
    assert "relative error 2.0e-01, limit 1e-02" in kinds["triton"]
    if run.ledger.sparse:
        assert "its output is wrong on the model's own data" in run.report()


def test_8_bits_that_are_wrong_leave_the_race_and_say_so(monkeypatch) -> None:
    def wrong_in_8_bits(call: AttentionCall) -> torch.Tensor:
        return wrong_for_this_model(call) if call.int8 else torch_backend.attention(call)

    monkeypatch.setattr(attention, "BACKENDS", {"triton": fake_backend(wrong_in_8_bits), "torch": torch_backend})
    run, out, both = forward(Race(("another model",)))
    assert all(any(torch.equal(one, right) for right in both) for one in out)
    assert "the int8 kernel failed and was left out: its output is wrong on the model's own data" in run.report()
