"""The calibrated plan of one model for one preset: what is kept of it, what a run adds, which plan comes of both."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ....plans.plan.plan import Plan
from ....plans.profile.profile import Profile, ProfileHeader
from ....plans.search.cost import HeadCosts, profile_costs
from ....plans.search.search import SearchError
from ..plan_choice.plan_names import named, plan_name
from .calibrated_plan import joined, noise_levels, searched, up_to_date
from .kept_plans import KEPT_AS, Kept, KeptPlans
from .kept_plans import plan_name as kept_name

MOST_PROMPTS = 4  # measured prompts, beyond which more are not worth their time
NONE_GIVEN = "no plan connected and none shipped: "
NEW = "found in this run"
FOR_NEXT = "for the next run "


class CalibratedModel:
    """A `calibration.Keeper`.

    Args:
        kept: files of the model.
        preset: whose error plans have.
        grid: of the run, (frames, height, width) in tokens; None where it is not known yet.
        costs: what candidates take, by which plans are the fastest; by a count of operations by default.
        shipped: plan of the model that is to be completed, None where none ships.
    """

    def __init__(
        self,
        kept: KeptPlans,
        preset: str,
        grid: tuple[int, int, int] | None,
        costs: Callable[[ProfileHeader], HeadCosts] = profile_costs,
        shipped: Plan | None = None,
    ):
        self.kept, self.preset, self.grid, self.costs, self.shipped = kept, preset, grid, costs, shipped
        self.found: Kept | None = kept.find(grid)
        self.plan: Plan | None = None
        self.trouble: str | None = None
        self._written = False
        if self.found is not None:
            self._known_plan(self.found)

    def _known_plan(self, found: Kept) -> None:
        plan = self.kept.plan(found, self.preset)
        times = self.costs(found.profile.header).times
        self._written = plan is not None and up_to_date(plan, found.profile, self.preset, times, self.shipped)
        try:
            name = kept_name(found.stem, self.preset)
            self.plan = plan if self._written else named(self._searched(found.profile), name)
        except SearchError as error:
            self.trouble = f"no plan was found: {error}"

    def wants(self, prompt: str) -> bool:
        """Whether a run with this prompt is to be measured."""
        if self.found is None:
            return True
        prompts = self.found.profile.header.prompts
        return self.found.grid == self.grid and len(prompts) < MOST_PROMPTS and prompt not in prompts

    def known(self) -> frozenset[tuple[int, int]]:
        """(band, layer) that earlier runs have measured."""
        samples = torch.zeros(0, 0) if self.found is None else self.found.profile.samples
        return frozenset(map(tuple, samples.nonzero().tolist()))

    def measured_up_to(self) -> float:
        """The highest noise level that the kept plan was measured at, 0 where there is none."""
        levels = None if self.found is None else noise_levels(self.found.profile.header)
        return 0.0 if levels is None else levels[0]

    def search(self, profile: Profile) -> Plan:
        """The plan of a first run.

        Raises:
            SearchError: there is none.
        """
        self.plan = named(self._searched(profile), NEW)
        return self.plan

    def keep(self, profile: Profile | None) -> list[str]:
        """Keep what a run has measured, if anything; the run's plan in words, and what came of it.

        Raises:
            SearchError: the measurements give no plan.
        """
        used = [self._begun_with() + self._used()] if self.plan is not None else []
        kept = self._renew() if profile is None else self._add(profile)
        return [*used, *filter(None, [kept, self.trouble, *self.kept.messages])]

    def _searched(self, profile: Profile) -> Plan:
        return searched(profile, self.preset, self.costs(profile.header), self.shipped)

    def _begun_with(self) -> str:
        """What was there before anything was calibrated."""
        if self.shipped is None:
            return NONE_GIVEN
        return f"{plan_name(self.shipped)} ({self.shipped.grade}) completed: "

    def _used(self) -> str:
        """The run's plan in words."""
        if self.found is None:
            return NEW
        count = len(self.plan.provenance.prompts)
        return f"calibrated plan of {self.plan.provenance.date}, {count} prompt{'' if count == 1 else 's'}"

    def _add(self, profile: Profile) -> str:
        """Add a run's measurements to what is kept by now, perhaps of another ComfyUI, and keep the plan of both."""
        now = self.kept.find(profile.header.grid)
        if now is None or now.grid != profile.header.grid:
            kept = self.kept.keep(profile, self._searched(profile), self.preset, None)
            more = self.plan is not None and len(profile.measured_bands()) > 1 and kept.startswith(KEPT_AS)
            return f"{FOR_NEXT}{kept}, which knows later noise levels too" if more else kept
        try:
            profile = joined(now.profile, profile)
        except ValueError as error:
            return f"what was measured was not added: {error}"
        kept = self.kept.keep(profile, self._searched(profile), self.preset, now)
        return f"{FOR_NEXT}{kept}"

    def _renew(self) -> str:
        """Keep a plan that was searched from the kept profile alone."""
        searched_now = self.found is not None and self.plan is not None and not self._written
        return f"{FOR_NEXT}{self.kept.keep_plan(self.found, self.plan, self.preset)}" if searched_now else ""
