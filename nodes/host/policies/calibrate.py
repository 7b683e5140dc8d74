"""Calibration in the run: heads are measured while it is dense, and the plan found runs from then on.

They are measured again at each band of noise levels, and the plan is searched again. A model with a kept plan runs that
one. What its first run has left out is measured by the second; from then on the plan stays as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import torch

from ....kernels.grid import TokenGrid
from ....kernels.memory import out_of_memory
from ....plans.plan.plan import Plan
from ....plans.profile.profile import Profile
from ....plans.search.search import SearchError
from ..core import fallback
from ..core.fallback import Dense, failed, passes_through
from ..library.found import SIGMA_SLACK
from ..library.found_plans import ONCE_MORE, TWICE_MORE
from ..session.call import Call, Computed, Sparse
from .kernel_tuner import KernelTuner
from .measure import Measurement
from .plan import PlanPolicy

LOG = logging.getLogger("sparse_vdit")
KEPT = "A plan was found and kept"


class Keeper(Protocol):
    """Makes plans out of measurements, and keeps both; `library/found_plans.py`."""

    def search(self, profile: Profile) -> Plan:
        """The plan that a run's measurements give."""

    def keep(self, profile: Profile | None) -> list[str]:
        """Keep what a run has measured, if anything, and its plan; says which plan that is and what came of it."""


class CalibrationPolicy:
    """Attention by a plan that is kept, or found on the way.

    Args:
        title: family and what is done, while there is no plan.
        shape: (layers, heads).
        keeper: of the model.
        measurement: what this run measures, None for nothing.
        run_plan: makes the policy of a plan.
        plan: that is kept already, None for none.
        tuner: takes times of dense attention while there is no plan; of the plans too.
        sigma_start, sigma_end: above and below them everything is dense; a kept plan may begin earlier.
        prior: plan that runs where none can be found, None for none.
        early: whether a kept plan runs in the dense start too.

    Attributes:
        measured: what the run has measured, once it is over.
        found_here: whether the plan was found in this run.
    """

    name = "calibration"

    def __init__(
        self,
        title: str,
        shape: tuple[int, int],
        keeper: Keeper,
        measurement: Measurement | None,
        run_plan: Callable[[Plan], PlanPolicy],
        plan: Plan | None,
        tuner: KernelTuner | None,
        sigma_start: float,
        sigma_end: float,
        prior: Plan | None = None,
        early: bool = False,
    ):
        self._title, self.shape, self.keeper, self.measurement = title, shape, keeper, measurement
        self.run_plan, self._tuner, self.prior, self.early = run_plan, tuner, prior, early
        if plan is None and measurement is None:
            plan = prior
        self.planned = None if plan is None else run_plan(plan)
        self.sigma_start, self.sigma_end = sigma_start, sigma_end
        self.notes: list[str] = []
        self.remark = ""
        self.measured: Profile | None = None
        self.found_here = False
        self._target: tuple[torch.device, torch.dtype] | None = None
        self._dense: Dense | None = None
        self._warm, self._searched = True, False
        self._bands = 0  # that the plan was searched from
        self._search_times: list[float] = []
        self._first_below: float | None = None

    @property
    def title(self) -> str:
        """The plan's, once there is one."""
        return self._title if self.planned is None else self.planned.title

    @property
    def plan_name(self) -> str:
        """The plan's, empty while there is none."""
        return "" if self.planned is None else self.planned.plan_name

    @property
    def expected(self) -> str:
        """The plan's, once there is one."""
        return "" if self.planned is None else self.planned.expected

    @property
    def tuner(self) -> KernelTuner | None:
        """The plan's, once there is one."""
        return self._tuner if self.planned is None else self.planned.tuner

    @property
    def observer(self) -> CalibrationPolicy | None:
        """Itself, while anything is measured."""
        return self if self._measures() else None

    def begin_step(self, sigma: float) -> Dense | None:
        """Searches the plan at the end of the dense start, and again where a later band was measured. Measured calls
        are asked about one by one, dense or not."""
        self._warm = sigma > self.sigma_start * (1 + SIGMA_SLACK)
        measurement = self.measurement
        if measurement is not None and measurement.active:
            if self._plan_is_due(sigma):
                self._find_plan()
            measurement.begin_step(sigma)
        self._dense = self._dense_because(sigma)
        if not self._measures():
            return self._dense
        measurement.sparse = self._dense is None or self._searched
        return None

    def _plan_is_due(self, sigma: float) -> bool:
        """Whether a band was measured that the plan was not searched from: at the end of the dense start, or of one
        step more where something is missing, and later in each band."""
        if self._warm or sigma == self.measurement.sigma:  # another forward of the same step
            return False
        if self.planned is not None and not self.found_here:
            return False
        if self._searched:
            return self.measurement.bands > self._bands
        if self.measurement.complete:
            return True
        self._first_below = self._first_below or sigma
        return sigma != self._first_below

    def _measures(self) -> bool:
        return self.measurement is not None and self.measurement.active and self._dense != fallback.AFTER_END

    def _dense_because(self, sigma: float) -> Dense | None:
        if self.planned is not None:
            return self.planned.begin_step(sigma)
        if self._warm:
            return fallback.WARM_UP
        if sigma < self.sigma_end * (1 - SIGMA_SLACK):
            return fallback.AFTER_END
        measures = self.measurement is not None and self.measurement.active
        return fallback.MEASURED if measures and not self._searched else fallback.NOT_CALIBRATED

    def _find_plan(self) -> None:
        """Search the run's plan in what was measured by now; where none is found, the one that runs stays."""
        self._searched, self._bands = True, self.measurement.bands
        try:
            began = time.perf_counter()
            profile = self.measurement.so_far()
            if profile is None:
                raise SearchError("no attention call could be measured")
            self.planned = self.run_plan(self.keeper.search(profile))
            self.found_here = True
            self._search_times.append(time.perf_counter() - began)
            self.measurement.forget()
        except SearchError as error:
            self.notes.append(f"no plan was found: {error}")
        except Exception as error:
            self._measuring_failed(error)
        self._fall_back()
        if self.planned is not None and self._target is not None:
            try:
                self.planned.try_kernels(*self._target)
            except Exception as error:  # then the first call does it
                if passes_through(error):
                    raise
                LOG.debug("Sparse-vDiT: kernels were not tested before their first call", exc_info=True)

    def _fall_back(self) -> None:
        """Where no plan was found, run the prior one if there is one."""
        if self.planned is None and self.prior is not None:
            self.planned = self.run_plan(self.prior)
            self.notes.append(f"so {self.prior.label} runs as it ships")

    def try_kernels(self, device: torch.device, dtype: torch.dtype) -> None:
        """For the plan that is kept; for one that is found, as soon as it is."""
        self._target = device, dtype
        if self.planned is not None:
            self.planned.try_kernels(device, dtype)

    def prepare(self, grid: TokenGrid, batch: int, device: torch.device) -> None:
        """What the plan needs, once there is one."""
        if self.planned is not None and self._dense is None:
            self.planned.prepare(grid, batch, device)

    def take(self, call: Call) -> bool:
        """Whether a call is to be measured."""
        try:
            return self.measurement.take(call)
        except Exception as error:
            return self._observing_failed(error)

    def observe(self, call: Call) -> None:
        """Measure a call; an error in it costs what was measured."""
        try:
            self.measurement.observe(call)
        except Exception as error:
            self._observing_failed(error)

    def spent(self, milliseconds: float) -> None:
        """Counts the time of a call that was measured."""
        self.measurement.milliseconds += milliseconds

    def _observing_failed(self, error: Exception) -> bool:
        self._measuring_failed(error)
        self._fall_back()
        if out_of_memory(error) and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False

    def _measuring_failed(self, error: Exception) -> None:
        """An error while measuring or searching costs what was measured, but no plan that was found already, and never
        the video."""
        self.notes.append(str(failed("calibration", error)))
        if self.measurement is None:
            return
        if self._searched and self.planned is not None:
            self.measurement.stop()
        else:
            self.measurement.drop()

    def decide(self, call: Call) -> Sparse | Computed | Dense:
        """By the plan, or the reason for dense."""
        return self.planned.decide(call) if self._dense is None else self._dense

    def failed(self) -> None:
        """Measure nothing more: what failed may have been for want of memory."""
        if self.measurement is not None:
            self.measurement.stop()

    def keep(self) -> None:
        """Keep what the run has found, now that it is over."""
        profile = self.measured = None if self.measurement is None else self.measurement.end()
        if self._search_times:
            self.notes.insert(0, searches(self._search_times))
        if self.measurement is not None and self.measurement.met:
            self.notes.insert(0, self.measurement.summary())
        try:
            kept = self.keeper.keep(profile)
            self.notes = [*kept, *self.notes]
            if self.found_here:
                self.remark = next((KEPT + m for note in kept for m in (ONCE_MORE, TWICE_MORE) if note.endswith(m)), "")
        except SearchError as error:
            self.notes.append(f"no plan was found: {error}")
        except Exception as error:
            self._measuring_failed(error)

    def summary(self) -> str:
        """What was measured and kept, and which times decided."""
        planned = "" if self.planned is None else self.planned.summary()
        return "; ".join(filter(None, [*self.notes, planned]))

    def advice(self) -> Dense | None:
        """That the next run has a plan, where this one had too few steps to use what it has measured."""
        return fallback.MEASURED if self.early and self.planned is None and self.measured is not None else None

    def detail(self) -> dict:
        """The plan as it ran."""
        return {"plan": None} if self.planned is None else self.planned.detail()

    def free(self) -> None:
        """Drop every tensor on a device; what was measured stays until it is kept."""
        if self.measurement is not None:
            self.measurement.end()
        if self.planned is not None:
            self.planned.free()
        if self._tuner is not None:
            self._tuner.free()


def searches(seconds: list[float]) -> str:
    """How often a plan was searched and how long that took, in words."""
    times = "" if len(seconds) == 1 else f" {len(seconds)} times"
    return f"searched the plan{times} in {sum(seconds):.2f} s"
