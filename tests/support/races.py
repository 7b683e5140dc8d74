"""Runs that time attention, for tests: a clock that is told what it shows, and forwards of four layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from dense_attention import model_attention
from sparse_vdit.kernels.patterns import Diagonal, Pattern
from sparse_vdit.nodes.host.attention.attention_op import run_attention
from sparse_vdit.nodes.host.runs.current import pop_run, push_run, timing_dense
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.nodes.host.speed.race import Race
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance

GRID, LAYERS, HEADS = (3, 8, 11), 4, 2
LAYOUT = (*GRID, 0, 0)
LONG = (9, 8, 11)  # where NARROW, WIDE and WIDER are of densities .37, .53 and .69
NARROW, WIDE, WIDER = Diagonal(0), Diagonal(1), Diagonal(2)


class TestClock:
    """Milliseconds by what is timed; `later` hands them over at `collect`, as a GPU does."""

    __test__ = False

    def __init__(self, later: bool = False, **milliseconds: float):
        self.milliseconds, self.later = milliseconds, later
        self.timed: list[str] = []
        self.waiting: list[tuple] = []

    def reserve(self, device: torch.device, calls: int) -> None:
        pass

    def ready(self, device: torch.device) -> bool:
        return True

    def start(self, device: torch.device, what: str, done: Callable[[float], None]) -> Callable[[], None]:
        self.timed.append(what)

        def stop() -> None:
            if self.later:
                self.waiting.append((done, self.milliseconds[what]))
            else:
                done(self.milliseconds[what])

        return stop

    def collect(self, wait: bool = False) -> None:
        if wait:
            self.hand_over()

    def hand_over(self) -> None:
        waiting, self.waiting = self.waiting, []
        for done, milliseconds in waiting:
            done(milliseconds)

    def free(self) -> None:
        pass


def plan_of(rows: list[Pattern]) -> Plan:
    """One pattern for all heads of each layer."""
    patterns = tuple(dict.fromkeys(rows))
    heads = tuple((patterns.index(pattern),) * HEADS for pattern in rows)
    return Plan("wan", len(rows), HEADS, 64, GRID, patterns, (Band(1.0, 0.0, heads),), "measured", Provenance())


def start(clock: TestClock, rows: list[Pattern] | None = None, path: Path | None = None, **options: object) -> Run:
    """A run whose warm-up ends at sigma .8."""
    contest = Race(("model of the test",), path)
    engine = PlanEngine(plan_of(rows or [NARROW] * LAYERS), 0.8, 0.0, "auto", race=contest, **options)
    return Run(engine, model_attention, clock=clock)


def qkv(dtype: torch.dtype = torch.float32, grid: tuple[int, int, int] = GRID) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(1, math.prod(grid), HEADS * 64, generator=generator).to(dtype) for _ in range(3)]


def dense(x: list[torch.Tensor]) -> torch.Tensor:
    """The model's own attention as the override calls it."""
    with timing_dense():
        return model_attention(*x, HEADS)


def forward(run: Run, sigma: float, x: list[torch.Tensor], grid: tuple[int, int, int] = GRID) -> list[torch.Tensor]:
    push_run(run)
    try:
        run.reason = run.stopped or run.engine.reason(sigma)
        run.begin_forward(torch.device("cpu"), sigma)
        run.options = {}
        return [
            run_attention(*x, HEADS, layer, (*grid, 0, 0), False, False, lambda: dense(x))
            for layer in range(run.engine.plan.layers)
        ]
    finally:
        pop_run(run)
