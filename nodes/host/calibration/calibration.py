"""Calibration in the run: heads are measured while it is dense, and the plan found runs from then on.

They are measured on while it is sparse, for the plan of the next run. A model with a kept plan runs that one, and its
next few prompts add to what was measured.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ....kernels.memory import out_of_memory
from ....plans.plan.plan import Plan
from ....plans.profile.profile import Profile
from ....plans.search.search import SearchError
from ....plans.view.head_drawing import fitting_maps
from ..families import Layout
from ..plan_choice.plan_names import plan_name
from ..reports import reasons
from ..reports.pictured import pictured_plans
from ..runs.engine import NOT_VIEWED, Call, DenseTimer, Engine
from ..runs.failures import calibration_failure, passes_through
from ..runs.plan_engine import SIGMA_SLACK, PlanEngine
from ..runs.run import Run
from ..runs.sampling import DEFAULT_START
from ..speed.kernel_choice import KernelChoice
from .measuring import Measuring

NO_WARM_UP = (
    "with so few steps a kept plan runs from the first one on: a start_percent above "
    f"{DEFAULT_START} keeps the beginning dense"
)

LOG = logging.getLogger("sparse_vdit")


class Keeper(Protocol):
    """Makes plans out of measurements, and keeps both; `calibrated_model.py`."""

    def search(self, profile: Profile) -> Plan:
        """The plan that a run's measurements give."""

    def keep(self, profile: Profile | None) -> list[str]:
        """Keep what a run has measured, if anything, and its plan; says which plan that is and what came of it."""


def begun(make: Callable[[], Engine | str]) -> Engine | str:
    """What `make` makes, or why everything stays dense where an error keeps it from that."""
    try:
        return make()
    except Exception as error:
        return calibration_failure(error)


class CalibrationEngine:
    """Attention by a plan that is kept, or found on the way.

    Args:
        title: family and what is done, while there is no plan.
        shape: (layers, heads).
        keeper: of the model.
        measuring: what this run measures, None for nothing.
        make_engine: runs a plan.
        plan: that is kept already, None for none.
        kernels: times dense attention while there is no plan.
        sigma_start, sigma_end: above and below them everything is dense; a kept plan's engine may begin earlier.
        prior: plan that runs where none can be found, None for none.
    """

    def __init__(
        self,
        title: str,
        shape: tuple[int, int],
        keeper: Keeper,
        measuring: Measuring | None,
        make_engine: Callable[[Plan], PlanEngine],
        plan: Plan | None,
        kernels: KernelChoice,
        sigma_start: float,
        sigma_end: float,
        prior: Plan | None = None,
    ):
        self._title, self.shape, self.keeper, self.measuring = title, shape, keeper, measuring
        self.make_engine, self.kernels = make_engine, kernels
        self.prior = prior
        if plan is None and measuring is None:
            plan = prior
        self.planned = None if plan is None else make_engine(plan)
        self.sigma_start, self.sigma_end = sigma_start, sigma_end
        self.notes: list[str] = []
        self._target: tuple[torch.device, torch.dtype] | None = None
        self._dense: str | None = None
        self._warm = True
        self._first_below: float | None = None
        self._searched = False
        self._measured: Profile | None = None

    @property
    def title(self) -> str:
        """The plan's, once there is one."""
        return self._title if self.planned is None else self.planned.title

    def reason(self, sigma: float) -> str | None:
        """Where calls are measured they are asked about one by one, dense or not."""
        self._warm = sigma > self.sigma_start * (1 + SIGMA_SLACK)
        if self.measuring is not None and not self.measuring.stopped:
            if self._over(sigma):
                self._find_plan()
            self.measuring.begin(sigma)
        self._dense = self._reason(sigma)
        return None if self._measures() else self._dense

    def _over(self, sigma: float) -> bool:
        """Whether all that a first plan needs was measured: at the end of the warm-up, or of one step more where
        something is missing."""
        if self._warm or self._searched or self.planned is not None:
            return False
        if sigma == self.measuring.sigma:  # another forward of the same step
            return False
        if self.measuring.complete:
            return True
        self._first_below = self._first_below or sigma
        return sigma != self._first_below

    def _measures(self) -> bool:
        return self.measuring is not None and not self.measuring.stopped and self._dense != reasons.AFTER_END

    def _reason(self, sigma: float) -> str | None:
        if self.planned is not None:
            return self.planned.reason(sigma)
        if self._warm:
            return reasons.WARM_UP
        if sigma < self.sigma_end * (1 - SIGMA_SLACK):
            return reasons.AFTER_END
        return reasons.MEASURED if self._measures() and not self._searched else reasons.NOT_CALIBRATED

    def _find_plan(self) -> None:
        """Search the run's plan."""
        self._searched = True
        try:
            self.planned = self.make_engine(self._search(self.measuring.so_far()))
            self.measuring.forget()
        except SearchError as error:
            self.notes.append(f"no plan was found: {error}")
        except Exception as error:
            self._failed(error)
        self._fall_back()
        self._try_kernels()

    def _try_kernels(self) -> None:
        """For the plan that was found. Where that fails, the first call does it."""
        if self.planned is None or self._target is None:
            return
        try:
            self.planned.try_kernels(*self._target)
        except Exception as error:
            if passes_through(error):
                raise
            LOG.debug("Sparse-vDiT: kernels were not tested before their first call", exc_info=True)

    def _fall_back(self) -> None:
        """Where no plan was found, run the prior one if there is one."""
        if self.planned is None and self.prior is not None:
            self.planned = self.make_engine(self.prior)
            self.notes.append(f"so {plan_name(self.prior)} runs as it ships")

    def _search(self, profile: Profile | None) -> Plan:
        began = time.perf_counter()
        if profile is None:
            raise SearchError("no attention call could be measured")
        plan = self.keeper.search(profile)
        self.notes.append(f"searched a plan in {time.perf_counter() - began:.2f} s")
        return plan

    def try_kernels(self, device: torch.device, dtype: torch.dtype) -> None:
        """For the plan that is kept; for one that is found, as soon as it is."""
        self._target = device, dtype
        if self.planned is not None:
            self.planned.try_kernels(device, dtype)

    def prepare(self, layout: Layout, batch: int, device: torch.device) -> None:
        """What the plan's engine needs, once there is one."""
        if self.planned is not None and self._dense is None:
            self.planned.prepare(layout, batch, device)

    def attention(self, run: Run, call: Call) -> Tensor | str:
        """By the plan, or the reason for dense; measured before."""
        if self._measures():
            try:
                sparse = self._dense is None or self._searched
                if self.measuring.wants(call, self._warm and not sparse, sparse):
                    self.measuring.observe(run, call, sparse)
            except Exception as error:
                self._failed(error)
                self._fall_back()
                if out_of_memory(error) and call.q.device.type == "cuda":
                    torch.cuda.empty_cache()
        if self._dense is not None:
            return self._dense
        out = self.planned.attention(run, call)
        if run.stopped and self.measuring is not None:  # what failed may have been for want of memory
            self.measuring.stop()
        return out

    def _failed(self, error: Exception) -> None:
        """An error while measuring or searching costs what was measured, but no plan that was found already, and never
        the video."""
        self.notes.append(calibration_failure(error))
        if self.measuring is None:
            return
        if self._searched and self.planned is not None:
            self.measuring.stop()
        else:
            self.measuring.drop()

    def dense_timer(self, run: Run, layout: Layout, q: Tensor, masked: bool) -> DenseTimer | None:
        """Of the model's own attention, for the race of this plan or the next."""
        kernels = self.kernels if self.planned is None else self.planned.kernels
        return kernels.dense_timer(run, layout, q, masked)

    def keep(self) -> None:
        """Keep what the run has found, now that it is over."""
        profile = self._measured = None if self.measuring is None else self.measuring.profile()
        if self.measuring is not None and self.measuring.met:
            self.notes.insert(0, self.measuring.told())
        try:
            self.notes = [*self.keeper.keep(profile), *self.notes]
        except SearchError as error:
            self.notes.append(f"no plan was found: {error}")
        except Exception as error:
            self._failed(error)

    def told(self) -> str:
        """What was measured and kept, and which times decided."""
        planned = "" if self.planned is None else self.planned.told()
        return "; ".join(filter(None, [*self.notes, planned]))

    def detail(self) -> dict:
        """The plan as it ran."""
        return {"plan": None} if self.planned is None else self.planned.detail()

    def viewed(self) -> dict:
        """The plan as it ran, its heads pictured by what this run has measured where no file holds it."""
        if self.planned is None:
            return NOT_VIEWED
        if self._searched and self._measured is not None:
            pictured_plans.keep(self.planned.whole, maps=fitting_maps(self.planned.whole, self._measured))
        return self.planned.viewed()

    def free(self) -> None:
        """Drop every tensor on a device; what was measured stays until it is kept."""
        if self.measuring is not None:
            self.measuring.profile()
        if self.planned is not None:
            self.planned.free()
        self.kernels.free()
