"""Runs on cards whose kernels break, are wrong, or find no memory: the video is right, and the report says what was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from dense_attention import model_attention
from host_runs import TOKENS, qkv
from races import TestClock
from sparse_vdit.kernels import attention
from sparse_vdit.kernels.attention import forget_failures
from sparse_vdit.kernels.backends import torch_backend
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.attention.attention_op import run_attention
from sparse_vdit.nodes.host.runs.current import pop_run, push_run
from sparse_vdit.nodes.host.runs.engine import Call
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.nodes.host.speed import kernel_choice, speeds
from sparse_vdit.nodes.host.speed.race import Race
from sparse_vdit.plans.plan.binding import BoundPlan
from sparse_vdit.plans.plan.plan import uniform_plan
from test_trust import broken, fake_backend, out_of_memory, spoiled

LAYERS, HEADS, GRID = 3, 3, (5, 8, 11)
PLAN = uniform_plan("wan", LAYERS, HEADS, 128, GRID, Diagonal(0))


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known of any backend, before and after."""
    forget_failures()
    monkeypatch.setattr(speeds, "_known", {})
    yield
    forget_failures()


def wrong_for_this_model(call: AttentionCall) -> torch.Tensor:
    """Right in the self-test, wrong on the model's own size."""
    out = torch_backend.attention(call)
    return out * 1.2 if call.q.shape[1] == TOKENS else out


@dataclass
class Forward:
    """A run of one forward in bf16, its outputs, and what dense attention and sparse attention by torch give."""

    run: Run
    out: list[torch.Tensor]
    dense: torch.Tensor
    sparse: torch.Tensor

    def is_dense(self) -> bool:
        return all(torch.equal(one, self.dense) for one in self.out)

    def is_sparse(self) -> bool:
        return all(torch.equal(one, self.sparse) for one in self.out)


def forward(race: Race | None = None, x: list[torch.Tensor] | None = None, again: Callable | None = None) -> Forward:
    """`race` finds sparse attention faster; `again` is the model's own attention in its timed calls."""
    engine = PlanEngine(PLAN, 1.0, 0.0, "auto", race=race)
    run = Run(engine, model_attention)
    run.clock = TestClock(dense=9.0, exact=2.0, int8=3.0)
    x = [part.to(torch.bfloat16) for part in x or qkv(1)]
    push_run(run)
    run.reason = run.engine.reason(0.5)
    run.begin_forward(torch.device("cpu"), 0.5)

    def dense() -> torch.Tensor:
        return model_attention(*x, HEADS)

    heads = [part.unflatten(2, (HEADS, 128)) for part in x]
    if again is None:
        out = [run_attention(*x, HEADS, layer, (*GRID, 0, 0), False, False, dense) for layer in range(LAYERS)]
    else:
        calls = [Call(layer, (*GRID, 0, 0), *heads, again=again) for layer in range(LAYERS)]
        found = [run.attend(call) for call in calls]
        out = [dense() if one is None else one.flatten(2) for one in found]
    pop_run(run)
    lists, table = BoundPlan(PLAN).lists(TokenGrid(*GRID), "cpu")
    sparse = torch_backend.attention(AttentionCall(*heads, lists, table[0][0])).flatten(2)
    return Forward(run, out, dense(), sparse)


def use(monkeypatch: pytest.MonkeyPatch, **found: object) -> None:
    """These backends before torch's."""
    monkeypatch.setattr(attention, "BACKENDS", {**found, "torch": torch_backend})
    monkeypatch.setattr(kernel_choice, "BACKENDS", attention.BACKENDS)


@pytest.mark.parametrize(
    ("triton", "test", "message"),
    [
        (broken, False, "backend compiled (triton: it failed: fatal error: Python.h: No such file)"),
        (broken, True, "compiled (triton: its self-test failed: fatal error: Python.h: No such file)"),
        (spoiled, True, "the output is wrong, relative error 1.0e-01, at most 1e-02 is right)"),
    ],
)
def test_the_shipped_kernels_take_over(monkeypatch, triton, test, message) -> None:
    use(monkeypatch, triton=fake_backend(triton, test=test), compiled=fake_backend())
    found = forward()
    assert found.is_sparse()
    assert found.run.ledger.sparse == LAYERS and message in found.run.report(), found.run.report()


def test_a_run_without_kernels_is_dense(monkeypatch) -> None:
    use(monkeypatch, triton=fake_backend(broken), compiled=fake_backend(spoiled))
    found = forward()
    assert found.is_dense()
    report = found.run.report()
    assert "no fast kernels here: triton: its self-test failed" in report and "compiled: its self-test" in report


def test_a_lack_of_memory_makes_this_run_dense_and_the_next_one_sparse(monkeypatch) -> None:
    module = fake_backend(out_of_memory, test=False)
    use(monkeypatch, triton=module)
    found = forward()
    assert found.is_dense() and "memory ran out in sparse attention" in found.run.report()
    module.attention = torch_backend.attention
    found = forward()
    assert found.is_sparse() and "backend triton" in found.run.report()


WRONG = "its output is wrong on the model's own data: relative error 2.0e-01, limit 1e-02"


def test_what_is_wrong_on_the_models_own_data_is_out_of_the_race(monkeypatch) -> None:
    use(monkeypatch, triton=fake_backend(wrong_for_this_model), compiled=fake_backend())
    found = forward(Race(("a model",)))
    assert found.is_sparse()
    assert f"backend compiled (triton: {WRONG})" in found.run.report()


def test_every_backend_is_checked_and_none_that_is_wrong_is_used(monkeypatch) -> None:
    use(monkeypatch, triton=fake_backend(wrong_for_this_model), compiled=fake_backend(wrong_for_this_model))
    found = forward(Race(("a model",)))
    assert found.is_dense()
    assert f"triton: {WRONG}; compiled: {WRONG}" in found.run.report()


def test_what_earlier_runs_timed_is_checked_all_the_same(monkeypatch, tmp_path) -> None:
    """After a restart the times are known, and not whether the kernel is right on this card."""
    race = partial(Race, ("a model",), tmp_path / "speeds.json")
    use(monkeypatch, triton=fake_backend())
    assert forward(race()).is_sparse()
    forget_failures()
    use(monkeypatch, triton=fake_backend(wrong_for_this_model))
    found = forward(race())
    assert found.is_dense() and WRONG in found.run.report()


def test_8_bits_that_are_wrong_leave_the_race_and_say_so(monkeypatch) -> None:
    def wrong_in_8_bits(call: AttentionCall) -> torch.Tensor:
        return wrong_for_this_model(call) if call.int8 else torch_backend.attention(call)

    use(monkeypatch, triton=fake_backend(wrong_in_8_bits))
    found = forward(Race(("a model",)))
    assert found.is_sparse()
    assert f"the int8 kernel failed and was left out: {WRONG.partition(', limit')[0]}" in found.run.report()


@pytest.mark.parametrize("which", range(3))
def test_numbers_of_the_model_that_are_not_finite_bar_no_kernel(monkeypatch, which) -> None:
    use(monkeypatch, triton=fake_backend())
    x = qkv(1)
    x[which][:] = torch.nan
    forward(Race(("a model",)), x)
    assert attention._failures == {}
    assert forward(Race(("a model",))).is_sparse()


def test_an_error_of_the_models_own_attention_bars_no_kernel(monkeypatch) -> None:
    def fails() -> None:
        raise RuntimeError("another node: buffers are used up")

    use(monkeypatch, triton=fake_backend())
    found = forward(Race(("a model",)), again=fails)
    assert found.is_sparse() and attention._failures == {}
    assert kernel_choice.NOT_TIMED in found.run.report()


@pytest.mark.parametrize("patcher", [object(), SimpleNamespace(load_device="cpu", model=None, get_model_object=str)])
def test_a_model_that_cannot_be_asked_is_tested_by_its_first_call(monkeypatch, patcher) -> None:
    use(monkeypatch, triton=fake_backend())
    run = Run(PlanEngine(PLAN, 1.0, 0.0, "auto"), model_attention)
    run.try_kernels(patcher)
    assert run.stopped is None and run.report().startswith("Sparse-vDiT: wan")


def test_kernels_are_tested_before_the_first_call(monkeypatch) -> None:
    asked = []

    def attend(call: AttentionCall) -> torch.Tensor:
        asked.append(call.q.shape[1])
        return torch_backend.attention(call)

    use(monkeypatch, triton=fake_backend(attend))
    run = Run(PlanEngine(PLAN, 1.0, 0.0, "auto", race=Race(("a model",))), model_attention)
    patcher = SimpleNamespace(
        load_device=torch.device("cpu"), get_model_object=lambda name: None,
        model=SimpleNamespace(get_dtype=lambda: torch.bfloat16),
    )  # fmt: skip
    run.try_kernels(patcher)
    assert asked == [1584, 1584]  # exact and in 8 bits
    assert forward().is_sparse() and asked[2:] == [TOKENS] * LAYERS
