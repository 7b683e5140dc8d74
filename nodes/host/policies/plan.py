"""Attention by plan: what a run of the patch node decides about each self-attention call."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from ....kernels.attention import AUTO, keep_tables, try_kernels
from ....kernels.configs import DTYPES
from ....kernels.grid import TokenGrid
from ....kernels.lists import TileLists
from ....kernels.patterns import Routed
from ....plans.plan.binding import KEPT_GRIDS, BoundPlan, Table
from ....plans.plan.plan import Plan
from ....plans.search.kept_dense import NOTHING_KEPT, KeptDense, with_dense
from ....plans.search.search import skip_warning
from ....plans.view.expected import expected_distance
from ..core import fallback
from ..core.fallback import Dense
from ..core.stats import grid_name
from ..library.found import SIGMA_SLACK
from ..library.stored import CALIBRATED
from ..session.call import Call, Sparse
from .kernel_tuner import KernelTuner

EARLIER = f"user/{CALIBRATED}/"  # of plans that runs have kept
LOG = logging.getLogger("sparse_vdit")
_announced: set[torch.device] = set()


class PlanPolicy:
    """Runs a plan between two noise levels.

    Args:
        plan: fits the model (`BoundPlan.mismatch` said so).
        sigma_start, sigma_end: above and below them everything is dense.
        backend: name for `kernels.attention`.
        tuner: measures whether sparse attention is faster, and by which kernel; None takes the exact one unmeasured.
        kept: what the user keeps dense of the plan.
        say: shows the user a line while the run goes on.

    Attributes:
        whole: the plan before anything of it was kept dense.
        met: densities of the tile lists and their numbers by [band][layer][head], of every grid met.

    Raises:
        ValueError: a layer to keep dense that the plan does not have.
    """

    observer = None
    remark = ""

    def __init__(
        self,
        plan: Plan,
        sigma_start: float,
        sigma_end: float,
        backend: str = AUTO,
        tuner: KernelTuner | None = None,
        kept: KeptDense = NOTHING_KEPT,
        say: Callable[[str], None] = LOG.info,
    ):
        self.whole, self.kept, self.say = plan, kept, say
        self.title = f"{plan.family}, plan {plan.title()}"
        self.plan_name = f"plan {'found earlier' if plan.label.startswith(EARLIER) else plan.label}"
        self.plan = with_dense(plan, kept)
        self.bound = BoundPlan(self.plan)
        self.backend, self.tuner = backend, tuner if backend == AUTO else None
        self.sigma_start, self.sigma_end = sigma_start, sigma_end
        self.shape = plan.layers, plan.heads
        self.notes: list[str] = []
        self.band: int | None = None
        self.met: dict[TokenGrid, tuple[tuple[float, ...], Table]] = {}
        self._decisions: dict[tuple, Sparse | Dense] = {}
        self._warnings: list[str] = []
        self._prepared: dict[torch.device, tuple] = {}

    @property
    def expected(self) -> str:
        """How far the video is from the dense one; empty on a size that the plan was not measured on."""
        return "" if self._warnings else expected_distance(self.whole)

    def begin_step(self, sigma: float) -> Dense | None:
        """Why all of a step is dense: the dense start, the end, or no band. Chooses the band otherwise."""
        if sigma > self.sigma_start * (1 + SIGMA_SLACK):
            return fallback.WARM_UP
        if sigma < self.sigma_end * (1 - SIGMA_SLACK):
            return fallback.AFTER_END
        self.band = self.plan.band_at(sigma)
        return fallback.NO_BAND if self.band is None else None

    def prepare(self, grid: TokenGrid, batch: int, device: torch.device) -> None:
        """Tile lists for a grid, and what launches read of them; `BoundPlan` keeps them."""
        lists, table = self._lists(grid, device)
        known, of_batch = self._prepared.get(device, (None, 0))
        if known is not lists or of_batch != batch:
            self._prepared[device] = lists, batch
            for head_lists in {row for band in table for row in band}:
                keep_tables(lists, head_lists, batch, self.plan.head_dim)

    def try_kernels(self, device: torch.device, dtype: torch.dtype) -> None:
        """Run the kernels' self-tests before sampling; what fails is known to every call that follows."""
        if dtype not in DTYPES:
            return
        self._announce(device)
        routed = any(isinstance(pattern, Routed) for pattern in self.plan.patterns)
        for int8 in (False, True) if self.tuner is not None else (False,):
            try_kernels(device, dtype, self.plan.head_dim, int8, routed, self.backend)

    def _announce(self, device: torch.device) -> None:
        """Say, before the first sparse call on a GPU, why it takes longer."""
        if device.type == "cuda" and device not in _announced:
            _announced.add(device)
            self.say(f"preparing the kernels for {device}; this happens once and may take some seconds")

    def _lists(self, grid: TokenGrid, device: torch.device) -> tuple[TileLists, Table]:
        lists, table = self.bound.lists(grid, device)
        self.met.pop(grid, None)  # so that the last one is the one met last
        self.met[grid] = lists.densities, table
        return lists, table

    def decide(self, call: Call) -> Sparse | Dense:
        """Sparse with the heads' lists, or why not. Of one layer, band and grid it is the same decision every time."""
        key = (call.layer, self.band, call.grid, call.q.device)
        found = self._decisions.get(key)
        if found is None:
            grids = {grid for _, _, grid, _ in self._decisions}
            if call.grid not in grids and len(grids) >= KEPT_GRIDS:
                self._decisions.clear()  # they hold tile lists
            found = self._decisions[key] = self._decide(call)
        if call.q.shape[2:] != (self.plan.heads, self.plan.head_dim):
            return fallback.OTHER_HEADS
        return found

    def _decide(self, call: Call) -> Sparse | Dense:
        if not 0 <= call.layer < self.plan.layers:
            return fallback.NO_LAYER
        lists, table = self._lists(call.grid, call.q.device)
        head_lists = table[self.band][call.layer]
        densities = [lists.densities[number] for number in head_lists]
        if self.backend == AUTO and min(densities) >= 1:
            return self._dense_heads(call)  # the model's own attention is the faster way to the same result
        self._announce(call.q.device)
        self._warn(self.bound.distance_warning(call.grid, call.q.device))
        self._warn(skip_warning(self.plan))
        return Sparse(lists, head_lists, sum(densities) / len(densities), self.backend, self.tuner)

    def _dense_heads(self, call: Call) -> Dense:
        """Why a layer whose heads are all dense on this grid is so."""
        why = self.bound.too_small(call.grid, self.band, call.layer)
        if why is not None:
            self._warn(why)
            return fallback.TOO_SMALL
        of_plan, here = ([plan.patterns[number] for number in plan.bands[self.band].heads[call.layer]]
                         for plan in (self.whole, self.plan))  # fmt: skip
        return fallback.DENSE_HEADS if of_plan == here else fallback.KEPT_DENSE

    def _warn(self, text: str | None) -> None:
        if text is not None and text not in self._warnings:
            self._warnings.append(text)

    def failed(self) -> None:
        """Nothing to do: the plan is as it was."""

    def summary(self) -> str:
        """Notes, which times decided, and warnings, in words; empty where there are none."""
        times = "" if self.tuner is None else self.tuner.summary()
        return "; ".join(filter(None, [*self.notes, times, *self._warnings]))

    def advice(self) -> None:
        """Nothing: the reasons say it."""

    def detail(self) -> dict:
        """The plan as it ran: every head's pattern, its density on every grid, and what the tuner measured."""
        densities = {
            grid_name(grid): [[[round(found[number], 4) for number in row] for row in band] for band in table]
            for grid, (found, table) in self.met.items()
        }
        bands = [
            {
                "sigma": [band.sigma_high, band.sigma_low],
                "patterns": [[self.plan.patterns[number].kind for number in row] for row in band.heads],
                "densities": {name: found[at] for name, found in densities.items()},
            }
            for at, band in enumerate(self.plan.bands)
        ]
        return {"plan": self.title, "bands": bands, "times": {} if self.tuner is None else self.tuner.detail()}

    def free(self) -> None:
        """Drop all tile lists."""
        self.bound = BoundPlan(self.plan)
        self._prepared.clear()
        self._decisions.clear()
        if self.tuner is not None:
            self.tuner.free()
