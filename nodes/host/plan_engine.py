"""Attention by plan: what a run of the patch node does with each self-attention call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ...kernels.attention import AUTO, choose_backend, run_call
from ...kernels.call import AttentionCall
from ...kernels.configs import DTYPES
from ...kernels.grid import TokenGrid
from ...kernels.lists import TileLists
from ...kernels.routing import launch_slots
from ...plans.binding import BoundPlan, Table
from ...plans.plan import Plan
from . import reasons
from .families import Layout
from .run import Run

LOG = logging.getLogger(__name__)


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
        pause: context in which tables that outlive a forward are made.
        say: shows the user a line while the run goes on.
    """

    def __init__(
        self,
        plan: Plan,
        sigma_start: float,
        sigma_end: float,
        backend: str,
        pause: Callable[[], AbstractContextManager] = nullcontext,
        say: Callable[[str], None] = LOG.info,
    ):
        self.bound = BoundPlan(plan)
        self.plan, self.backend, self.pause, self.say = plan, backend, pause, say
        self.sigma_start, self.sigma_end = sigma_start, sigma_end
        self.band: int | None = None
        self._warned: set[Layout] = set()
        self._prepared: set[tuple[Layout, int, torch.device]] = set()

    def reason(self, sigma: float) -> str | None:
        """Warm-up, the end, or no band; chooses the band otherwise."""
        if sigma > self.sigma_start:
            return reasons.WARM_UP
        if sigma < self.sigma_end:
            return reasons.AFTER_END
        self.band = self.plan.band_at(sigma)
        return reasons.NO_BAND if self.band is None else None

    def prepare(self, layout: Layout, batch: int, device: torch.device) -> None:
        """Tile lists for a layout, and what launches read of them; `BoundPlan` keeps them."""
        lists, table = self._lists(layout, device)
        if (layout, batch, device) not in self._prepared:
            self._prepared.add((layout, batch, device))
            with self.pause():
                lists.order_numbers()
                for head_lists in {row for band in table for row in band}:
                    lists.slots(head_lists * batch, len(head_lists))
                    launch_slots(lists, head_lists * batch, len(head_lists))

    def _lists(self, layout: Layout, device: torch.device) -> tuple[TileLists, Table]:
        grid = TokenGrid(*layout)
        with nullcontext() if self.bound.ready(grid, device) else self.pause():
            return self.bound.lists(grid, device)

    def attention(
        self, run: Run, layer: int, layout: Layout, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None = None
    ) -> Tensor | str:
        """Sparse attention with the heads' lists, or why not."""
        if not 0 <= layer < self.plan.layers:
            return reasons.NO_LAYER
        if q.shape[2:] != (self.plan.heads, self.plan.head_dim):
            return reasons.OTHER_HEADS
        lists, table = self._lists(layout, q.device)
        head_lists = table[self.band][layer]
        if self.backend == AUTO and all(lists.densities[number] >= 1 for number in head_lists):
            return reasons.DENSE_HEADS  # the model's own attention is the faster way to the same result
        announce(q.device, self.say)
        try:
            call = AttentionCall(q, k, v, lists, head_lists, key_bias)
            name, passed_over = choose_backend(call, self.backend)
        except ValueError as error:
            run.note(str(error))
            return reasons.REFUSED
        if self.backend == AUTO and name == "torch" and q.device.type in ("cuda", "cpu") and q.dtype in DTYPES:
            run.note(f"no fast kernels here: {passed_over}")  # torch alone is slower than dense attention in 16 bits
            return reasons.NO_KERNELS
        stop = run.clock(q.device)
        out = run_call(call, name)
        stop()
        self._warn(run, layout)
        if passed_over is not None:
            name = f"{name} ({passed_over})"
        run.count_sparse(out, sum(lists.densities[number] for number in head_lists) / len(head_lists), name)
        return out

    def _warn(self, run: Run, layout: Layout) -> None:
        if layout not in self._warned:
            self._warned.add(layout)
            warning = self.bound.distance_warning(TokenGrid(*layout))
            if warning is not None:
                run.note(warning)

    def free(self) -> None:
        """Drop all tile lists."""
        self.bound = BoundPlan(self.plan)
        self._prepared.clear()
