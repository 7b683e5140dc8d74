"""Attention by plan: what a run of the patch node does with each self-attention call."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ....kernels.attention import AUTO, KernelFailed, keep_tables, try_kernels, with_fallback
from ....kernels.call import AttentionCall
from ....kernels.configs import DTYPES
from ....kernels.grid import TokenGrid
from ....kernels.lists import TileLists
from ....kernels.memory import out_of_memory
from ....kernels.patterns import Routed
from ....plans.plan.binding import BoundPlan, Table, own_densities
from ....plans.plan.plan import Plan
from ....plans.search.kept_dense import NOTHING_KEPT, KeptDense, with_dense
from ....plans.search.search import skip_warning
from ....plans.view.view import plan_view
from ..families import Layout
from ..plan_choice.plan_names import graded, plan_name
from ..reports import reasons
from ..reports.ledger import grid_name
from ..reports.pictured import pictured_plans
from ..speed.kernel_choice import KernelChoice, mean_density
from ..speed.race import Race
from .engine import Call, DenseTimer
from .failures import passes_through
from .run import Run

LOG = logging.getLogger(__name__)

TIMED_ON = ("cuda", "cpu")  # devices whose calls `Clock` times
SIGMA_SLACK = 1e-5  # schedules are rounded to float32: a step exactly at start_percent is no longer warm-up


_announced: set[torch.device] = set()


def announce(device: torch.device, say: Callable[[str], None]) -> None:
    """Say, before the first sparse call on a GPU, why it takes longer."""
    if device.type == "cuda" and device not in _announced:
        _announced.add(device)
        say(f"preparing the kernels for {device}; this happens once and may take some seconds")


class PlanEngine:
    """Runs a plan between two noise levels.

    Args:
        plan: fits the model (`BoundPlan.mismatch` said so).
        sigma_start, sigma_end: above and below them everything is dense.
        backend: name for `sparse_attention`.
        say: shows the user a line while the run goes on.
        race: measures whether sparse attention is faster, and by which kernel; None takes the exact one unmeasured, as
            a named backend does.
        kept: what the user keeps dense of the plan.

    Raises:
        ValueError: a layer to keep dense that the plan does not have.
    """

    def __init__(
        self,
        plan: Plan,
        sigma_start: float,
        sigma_end: float,
        backend: str,
        say: Callable[[str], None] = LOG.info,
        race: Race | None = None,
        kept: KeptDense = NOTHING_KEPT,
    ):
        self.whole, self.kept = plan, kept
        self.title = f"{plan.family}, plan {graded(plan)}"
        plan = with_dense(plan, kept)
        self.bound = BoundPlan(plan)
        self.plan, self.backend, self.say = plan, backend, say
        self.kernels = KernelChoice(race if backend == AUTO else None)
        self.sigma_start, self.sigma_end = sigma_start, sigma_end
        self.notes: list[str] = []
        self.shape = plan.layers, plan.heads
        self.band: int | None = None
        self._warnings: dict[Layout, str | None] = {}
        self._skip_warning = skip_warning(plan)
        self._met: dict[Layout, tuple[tuple[float, ...], Table]] = {}

    def reason(self, sigma: float) -> str | None:
        """Warm-up, the end, or no band; chooses the band otherwise."""
        if sigma > self.sigma_start * (1 + SIGMA_SLACK):
            return reasons.WARM_UP
        if sigma < self.sigma_end * (1 - SIGMA_SLACK):
            return reasons.AFTER_END
        self.band = self.plan.band_at(sigma)
        return reasons.NO_BAND if self.band is None else None

    def prepare(self, layout: Layout, batch: int, device: torch.device) -> None:
        """Tile lists for a layout, and what launches read of them; `BoundPlan` keeps them."""
        lists, table = self._lists(layout, device)
        for head_lists in {row for band in table for row in band}:
            self._keep_tables(lists, head_lists, batch, None)

    def try_kernels(self, device: torch.device, dtype: torch.dtype) -> None:
        """Run the kernels' self-tests before sampling; what fails is known to every call that follows."""
        if dtype not in DTYPES:
            return
        announce(device, self.say)
        routed = any(isinstance(pattern, Routed) for pattern in self.plan.patterns)
        for int8 in (False, True) if self.kernels.race is not None else (False,):
            try_kernels(device, dtype, self.plan.head_dim, int8, routed, self.backend)

    def _keep_tables(self, lists: TileLists, head_lists: tuple[int, ...], batch: int, backend: str | None) -> None:
        """Make the tables that calls share, once."""
        key = ("tables", head_lists, batch, backend)
        lists.kept_aside(key, lambda: keep_tables(lists, head_lists, batch, self.plan.head_dim, backend))

    def _lists(self, layout: Layout, device: torch.device) -> tuple[TileLists, Table]:
        grid = TokenGrid(*layout)
        lists, table = self.bound.lists(grid, device)
        if layout not in self._warnings:
            self._warnings[layout] = self.bound.distance_warning(grid, device)
        self._met[layout] = lists.densities, table
        return lists, table

    def dense_timer(self, run: Run, layout: Layout, q: Tensor, masked: bool) -> DenseTimer | None:
        """Of the model's own attention, for the race."""
        return self.kernels.dense_timer(run, layout, q, masked)

    def attention(self, run: Run, call: Call) -> Tensor | str:
        """Sparse attention with the heads' lists, or why not; an error in it is a reason too."""
        failure = None
        try:
            return self._attention(run, call)
        except Exception as error:
            if passes_through(error):
                raise
            LOG.warning("Sparse-vDiT: sparse attention failed", exc_info=True)
            failure = error.__cause__ if isinstance(error, KernelFailed) else error
            failure = failure.with_traceback(None)  # whose frames would keep the call's tensors
        if out_of_memory(failure):
            self._release(call.q.device)
        return run.kernel_failed(call.layer, failure)

    def _attention(self, run: Run, call: Call) -> Tensor | str:
        layer, layout, q = call.layer, call.layout, call.q
        if not 0 <= layer < self.plan.layers:
            return reasons.NO_LAYER
        if q.shape[2:] != (self.plan.heads, self.plan.head_dim):
            return reasons.OTHER_HEADS
        lists, table = self._lists(layout, q.device)
        head_lists = table[self.band][layer]
        if self.backend == AUTO and all(lists.densities[number] >= 1 for number in head_lists):
            return self._dense_heads(run, call)  # the model's own attention is the faster way to the same result
        announce(q.device, self.say)

        def compute(name: str) -> Tensor | str:
            if self.backend == AUTO and name == "torch" and (q.dtype in DTYPES or q.device.type not in TIMED_ON):
                # torch alone is slower than dense attention in 16 bits, and elsewhere nothing tells whether it is
                return reasons.NO_KERNELS
            self._keep_tables(lists, head_lists, q.shape[0], name)
            return self.kernels.attention(run, layout, sparse, name, call.again)

        try:
            sparse = AttentionCall(q, call.k, call.v, lists, head_lists, call.key_bias)
            # other errors than a kernel's say nothing of its backend
            out, name, passed_over = with_fallback(
                sparse, self.backend, compute, lambda error: not isinstance(error, KernelFailed)
            )
        except ValueError as error:
            run.ledger.note(str(error))
            return reasons.REFUSED
        if out == reasons.NO_KERNELS:
            run.ledger.note(f"no fast kernels here: {passed_over}")
        if isinstance(out, str):
            if passed_over is not None and name != "torch":
                run.ledger.note(passed_over)
            return out
        if run.spoiled(layer, out, (q, call.k, call.v)):
            return reasons.NOT_FINITE
        self._warn(run, layout)
        if passed_over is not None:
            name = f"{name} ({passed_over})"
        run.ledger.count_sparse(layer, mean_density(sparse), name, q.device)
        return out

    def _release(self, device: torch.device) -> None:
        """Give back what the sparse path holds, so that the model's own attention finds room."""
        self.free()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _dense_heads(self, run: Run, call: Call) -> str:
        """Why a layer whose heads are all dense on this grid is so."""
        why = self.bound.too_small(TokenGrid(*call.layout), self.band, call.layer)
        if why is None:
            of_plan, here = ([plan.patterns[number] for number in plan.bands[self.band].heads[call.layer]]
                             for plan in (self.whole, self.plan))  # fmt: skip
            return reasons.DENSE_HEADS if of_plan == here else reasons.KEPT_DENSE
        run.ledger.note(why)
        return reasons.TOO_SMALL

    def _warn(self, run: Run, layout: Layout) -> None:
        for warning in (self._warnings[layout], self._skip_warning):
            if warning is not None:
                run.ledger.note(warning)

    def told(self) -> str:
        """Notes, and which times decided, in words; empty where there are none."""
        return "; ".join(filter(None, [*self.notes, self.kernels.told()]))

    def detail(self) -> dict:
        """The plan as it ran: every head's pattern, its density on every grid, and what the race measured."""
        bands = [
            {
                "sigma": [band.sigma_high, band.sigma_low],
                "patterns": [[self.plan.patterns[number].kind for number in row] for row in band.heads],
                "densities": {grid_name(layout): density[at] for layout, density in self._head_densities().items()},
            }
            for at, band in enumerate(self.plan.bands)
        ]
        return {"plan": self.title, "bands": bands, "race": self.kernels.results()}

    def _head_densities(self) -> dict[Layout, list]:
        """[band][layer][head] for every layout met."""
        return {
            layout: [[[round(densities[number], 4) for number in row] for row in band] for band in table]
            for layout, (densities, table) in self._met.items()
        }

    def viewed(self) -> dict:
        """The plan before anything of it was kept dense, with densities of the grid that was met last."""
        known = own_densities(self.whole)
        densities, table = next(reversed(self._met.values()), ((), ()))
        met = {
            self.plan.patterns[number]: densities[at]
            for band, rows in zip(self.plan.bands, table, strict=False)
            for numbers, row in zip(band.heads, rows, strict=True)
            for number, at in zip(numbers, row, strict=True)
        }
        here = {number: met.get(self.whole.patterns[number], density) for number, density in known.items()}
        name = plan_name(self.whole)
        view = {**plan_view(self.whole, here, name=name), "pictures": {"shown": pictured_plans.keep(self.whole, name)}}
        return {"view": view, "kept": str(self.kept), "speedup": self.kernels.speedup()}

    def free(self) -> None:
        """Drop all tile lists."""
        self.bound = BoundPlan(self.plan)
        self.kernels.free()
