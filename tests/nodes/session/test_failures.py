"""Sparse attention that goes wrong: numbers that are not finite, kernels that fail, memory that runs out. The output is
always the dense one, the report says what happened, and nothing is tried for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dense_attention import model_attention
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.attention.attention_op import run_attention
from sparse_vdit.nodes.host.reports import reasons
from sparse_vdit.nodes.host.runs import output_check
from sparse_vdit.nodes.host.runs import run as run_module
from sparse_vdit.nodes.host.runs.current import pop_run, push_run
from sparse_vdit.nodes.host.runs.output_check import MOST_FAILURES
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.nodes.host.speed import kernel_choice
from sparse_vdit.plans.plan.plan import uniform_plan

GRID, LAYERS, HEADS = (5, 8, 11), 6, 3
TOKENS, LAYOUT = 5 * 8 * 11, (*GRID, 0, 0)


@pytest.fixture
def run() -> Run:
    made = Run(
        PlanEngine(uniform_plan("wan", LAYERS, HEADS, 128, GRID, Diagonal(0)), 1.0, 0.0, "torch"), model_attention
    )
    push_run(made)
    yield made
    pop_run(made)


def qkv(seed: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, TOKENS, HEADS * 128, generator=generator) for _ in range(3)]


def begin(run: Run) -> None:
    run.reason = run.stopped or run.engine.reason(0.5)
    run.begin_forward(torch.device("cpu"), 0.5)


def layers_of(run: Run, x: list[torch.Tensor]) -> list[torch.Tensor]:
    """One forward: every layer on the same q, k, v."""
    return [
        run_attention(*x, HEADS, layer, LAYOUT, False, False, lambda: model_attention(*x, HEADS))
        for layer in range(LAYERS)
    ]


def forward(run: Run, x: list[torch.Tensor]) -> list[torch.Tensor]:
    """A forward as `_apply_model` runs it, repeated where that must be."""
    begin(run)
    out = layers_of(run, x)
    while run.must_repeat():
        out = layers_of(run, x)
    return out


def trouble(monkeypatch: pytest.MonkeyPatch, make: Callable[[int, torch.Tensor], torch.Tensor]) -> list[int]:
    """Kernels whose output goes through `make(number of the call, output)`; returns the list of calls so far."""
    plain, calls = kernel_choice.run_call, []

    def run_call(*args: object) -> torch.Tensor:
        calls.append(len(calls))
        return make(calls[-1], plain(*args))

    monkeypatch.setattr(kernel_choice, "run_call", run_call)
    return calls


def nan_in_head_1(*numbers: int) -> Callable[[int, torch.Tensor], torch.Tensor]:
    def make(number: int, out: torch.Tensor) -> torch.Tensor:
        if number in numbers:
            out[0, 17, 1, 5] = torch.nan
        return out

    return make


@pytest.mark.parametrize("at_once", [True, False])
def test_a_layer_that_is_not_finite_is_computed_dense_and_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """At once as on a CPU, or once per forward as on a GPU: the same output and the same counts."""
    monkeypatch.setattr(output_check, "checks_at_once", lambda device: at_once)
    x = qkv()
    sparse, dense = forward(run, x), model_attention(*x, HEADS)
    trouble(monkeypatch, nan_in_head_1(2))
    out = forward(run, x)
    assert torch.equal(out[2], dense)
    assert all(torch.equal(a, b) for layer, (a, b) in enumerate(zip(out, sparse, strict=True)) if layer != 2)
    assert (run.ledger.sparse, run.ledger.dense) == (2 * LAYERS - 1, {reasons.NOT_FINITE: 1})
    assert run.stopped is None
    assert "layer 2, head 1: sparse output was not finite" in run.report()
    assert run.ledger.layers[2] == {"sparse": 1, reasons.NOT_FINITE: 1}
    assert [f["sparse"] for f in run.ledger.forwards] == [LAYERS, LAYERS - 1]


@pytest.mark.parametrize("at_once", [True, False])
def test_after_three_failures_the_run_goes_on_dense(run: Run, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    monkeypatch.setattr(output_check, "checks_at_once", lambda device: at_once)
    x = qkv()
    dense = model_attention(*x, HEADS)
    calls = trouble(monkeypatch, lambda number, out: out * torch.nan)
    assert all(torch.equal(out, dense) for out in forward(run, x))
    assert run.stopped == reasons.OFTEN_NOT_FINITE
    tried = len(calls)
    assert tried <= MOST_FAILURES * LAYERS
    assert all(torch.equal(out, dense) for out in forward(run, x))
    assert len(calls) == tried, "sparse attention was tried again"
    assert run.ledger.sparse == 0
    assert run.ledger.dense_reasons().total() == 2 * LAYERS
    assert len(run.ledger.failures) == MOST_FAILURES


@pytest.mark.parametrize("layers", [(1, 4), (4, 1)])
def test_two_layers_that_are_not_finite_are_found_one_after_the_other(
    run: Run, monkeypatch: pytest.MonkeyPatch, layers: tuple[int, int]
) -> None:
    """As on a GPU: the later one may be bad because the earlier one was, so it is tried again beside it."""
    monkeypatch.setattr(output_check, "checks_at_once", lambda device: False)
    x = qkv()
    dense, tried = model_attention(*x, HEADS), []

    def bad(number: int, out: torch.Tensor) -> torch.Tensor:
        layer = run.at_work.last
        tried.append(layer)
        return out * torch.nan if layer in layers else out

    trouble(monkeypatch, bad)
    out = forward(run, x)
    assert all(torch.equal(out[layer], dense) for layer in layers)
    assert [failure["what"].split(",")[0] for failure in run.ledger.failures] == ["layer 1", "layer 4"]
    assert [tried.count(layer) for layer in (0, 1, 4)] == [3, 1, 2]
    assert (run.ledger.sparse, run.ledger.dense) == (LAYERS - 2, {reasons.NOT_FINITE: 2})


@pytest.mark.parametrize("looks", [0, 1])
def test_inputs_are_looked_at_in_a_repeated_forward_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """On a GPU a call that goes well costs one sum over its output."""
    monkeypatch.setattr(output_check, "checks_at_once", lambda device: False)
    looked, plain = [], output_check.not_finite
    monkeypatch.setattr(output_check, "not_finite", lambda x: looked.append(x.shape) or plain(x))
    trouble(monkeypatch, nan_in_head_1(2) if looks else lambda number, out: out)
    forward(run, qkv())
    assert len(looked) == 3 * looks


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_model_that_gives_nan_itself_is_not_blamed_on_the_kernel(
    run: Run, monkeypatch: pytest.MonkeyPatch, at_once: bool, bad: int
) -> None:
    """Whatever the number of forwards: none counts as a failure, and on a GPU the first alone is repeated, in which the
    first layer's q, k and v are looked at."""
    monkeypatch.setattr(output_check, "checks_at_once", lambda device: at_once)
    x = qkv()
    x[bad][0, 5] = torch.nan
    calls = trouble(monkeypatch, lambda number, out: out)
    for _ in range(MOST_FAILURES):
        forward(run, x)
    asked = 0 if at_once else 1
    assert len(calls) == MOST_FAILURES * LAYERS + asked * (LAYERS - 1)
    assert run.ledger.sparse == MOST_FAILURES * LAYERS - asked
    assert (run.stopped, run.ledger.failures) == (None, [])
    assert run.report().count("were not finite before sparse attention") == 1
    assert "head" not in run.report()


class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
    """ComfyUI's, as older ones have it: an ordinary exception."""


class OutOfResources(Exception):  # noqa: N818 - Triton's name
    """Triton's."""


@pytest.mark.parametrize(
    ("error", "reason", "says"),
    [
        (
            RuntimeError("compile failed\nmore"),
            reasons.KERNEL_FAILED,
            "sparse kernel failed (RuntimeError: compile failed)",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), reasons.OUT_OF_MEMORY, "memory ran out"),
        (RuntimeError("CUDA error: out of memory"), reasons.OUT_OF_MEMORY, "memory ran out"),
        (MemoryError(), reasons.OUT_OF_MEMORY, "memory ran out"),
        (OutOfResources("shared memory"), reasons.KERNEL_FAILED, "needs more than this card has"),
    ],
)
def test_a_kernel_that_fails_is_not_tried_again_and_the_run_ends_dense(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str, says: str
) -> None:
    x = qkv()
    sparse, dense = forward(run, x), model_attention(*x, HEADS)

    def fail(number: int, out: torch.Tensor) -> torch.Tensor:
        if number == 3:
            raise error
        return out

    calls = trouble(monkeypatch, fail)
    out = forward(run, x)
    assert all(torch.equal(a, b) for a, b in zip(out, sparse[:3] + [dense] * 3, strict=True))
    assert all(torch.equal(a, dense) for a in forward(run, x))
    assert len(calls) == 4
    assert run.ledger.dense == {reason: 3 + LAYERS}
    assert "layer 3" in run.report()
    assert says in run.report()
    assert (not run.engine.bound._kept) == (reason == reasons.OUT_OF_MEMORY)


@pytest.mark.parametrize("error", [InterruptProcessingException(), KeyboardInterrupt()])
def test_interrupts_pass_through(run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(number: int, out: torch.Tensor) -> torch.Tensor:
        raise error

    trouble(monkeypatch, fail)
    with pytest.raises(type(error)):
        forward(run, qkv())
    assert run.stopped is None


def test_tile_lists_that_cannot_be_made_leave_the_run_dense(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ValueError("tile lists take over 32 MB")

    monkeypatch.setattr(run.engine.bound, "lists", fail)
    run.prepare(LAYOUT, 1, torch.device("cpu"))
    x = qkv()
    assert all(torch.equal(out, model_attention(*x, HEADS)) for out in forward(run, x))
    assert run.ledger.dense == {reasons.KERNEL_FAILED: LAYERS}
    assert "tile lists take over 32 MB" in run.report()


@pytest.mark.parametrize("at", ["dense timer", "its begin", "its end", "mask", "events"])
def test_an_error_beside_the_kernels_leaves_the_run_dense_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """In all that the pack does around a call, in the warm-up too: said once, and sampling goes on."""

    def fail(*args: object, **kwargs: object) -> None:
        raise ValueError("Cell is empty")

    x, mask = qkv(), None
    if at == "mask":
        mask = torch.zeros(1, 1, TOKENS)
        monkeypatch.setattr(run_module, "text_bias", fail)
    elif at == "events":
        monkeypatch.setattr(run.clock, "reserve", fail)
    else:
        timers = {"dense timer": fail, "its begin": lambda *args: fail, "its end": lambda *args: lambda: fail}
        monkeypatch.setattr(run.engine, "dense_timer", timers[at])
        run.engine.sigma_start = 0.4  # a warm-up
    dense = model_attention(*x, HEADS)

    def own() -> torch.Tensor:
        with run.timing_dense():
            return model_attention(*x, HEADS)

    for _ in range(2):
        begin(run)
        for layer in range(LAYERS):
            assert torch.equal(run_attention(*x, HEADS, layer, LAYOUT, False, False, own, mask), dense)
    assert run.stopped == reasons.KERNEL_FAILED
    assert run.report().count("ValueError: Cell is empty") == len(run.ledger.failures) == 1
    assert run.ledger.sparse == 0


def test_nothing_sparse_is_said_with_the_most_likely_reason() -> None:
    run = Run(None, None)
    assert "no self-attention of the model reached the pack" in run.report()
    run.ledger.dense[reasons.WARM_UP] = 30
    assert "smaller start_percent" in run.report()
    run.ledger.dense[reasons.VACE_BLOCK] = 50
    assert "smaller start_percent" in run.report()
    run.ledger.dense[reasons.NO_KERNELS] = 2
    assert "no fast sparse kernel" in run.report()
    assert reasons.MENDS[reasons.WARM_UP] not in run.report()


def test_every_reason_that_can_fill_a_run_has_a_mend() -> None:
    """Reasons of whole runs say it themselves."""
    whole_runs = {"NO_PLAN", "CUDA_GRAPHS", "SEVERAL_GPUS", "CROSS_ATTENTION", "REFINER", "UNREACHED"}
    names = {name for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)}
    assert {getattr(reasons, name) for name in names - whole_runs} == set(reasons.MENDS)
