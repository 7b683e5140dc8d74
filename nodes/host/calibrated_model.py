"""The calibrated plan of one model for one preset: what is kept of it, what a run adds, which plan comes of both."""

from __future__ import annotations

from ...plans.plan import Plan
from ...plans.profile import Profile
from ...plans.search import SearchError
from .calibrated_plan import joined, noise_levels, searched, up_to_date
from .kept_plans import Kept, KeptPlans
from .plan_names import named

MOST_PROMPTS = 4  # measured prompts, beyond which more are not worth their time
NEW = "calibrated now"


class CalibratedModel:
    """A `calibration.Keeper`.

    Args:
        kept: files of the model.
        preset: whose error plans have.
        grid: of the run, (frames, height, width) in tokens; None where it is not known yet.
    """

    def __init__(self, kept: KeptPlans, preset: str, grid: tuple[int, int, int] | None):
        self.kept, self.preset, self.grid = kept, preset, grid
        self.found: Kept | None = kept.find(grid)
        self.plan: Plan | None = None
        self.trouble: str | None = None
        self._written = False
        if self.found is not None:
            self._known_plan(self.found)

    def _known_plan(self, found: Kept) -> None:
        plan = self.kept.plan(found, self.preset)
        self._written = plan is not None and up_to_date(plan, found.profile, self.preset)
        try:
            self.plan = plan if self._written else named(searched(found.profile, self.preset), NEW)
        except SearchError as error:
            self.trouble = f"no plan was found: {error}"

    def wants(self, prompt: str) -> bool:
        """Whether a run with this prompt is to be measured."""
        if self.found is None:
            return True
        prompts = self.found.profile.header.prompts
        return self.found.grid == self.grid and len(prompts) < MOST_PROMPTS and prompt not in prompts

    def measured_up_to(self) -> float:
        """The highest noise level that the kept plan was measured at, 0 where there is none."""
        levels = None if self.found is None else noise_levels(self.found.profile.header)
        return 0.0 if levels is None else levels[0]

    def search(self, profile: Profile) -> Plan:
        """The plan of a first run.

        Raises:
            SearchError: there is none.
        """
        self.plan = named(searched(profile, self.preset), NEW)
        return self.plan

    def keep(self, profile: Profile | None) -> list[str]:
        """Keep what a run has measured, if anything; the run's plan in words, and what came of it.

        Raises:
            SearchError: the measurements give no plan.
        """
        used, notes = self._used(), []
        if profile is not None and self.found is None:
            plan = self.plan or self.search(profile)
            used = f"no plan connected and none shipped: {NEW}"
            notes.append(self.kept.keep(profile, plan, self.preset, None))
        elif self.found is not None:
            notes.append(self._renew(self.found, profile))
        return list(filter(None, [used, *notes, self.trouble, *self.kept.messages]))

    def _used(self) -> str:
        """Which kept plan a run began with."""
        if self.plan is None or self.found is None:
            return ""
        count = len(self.plan.provenance.prompts)
        prompts = f"{count} prompt{'' if count == 1 else 's'}"
        return f"no plan connected and none shipped: calibrated plan of {self.plan.provenance.date}, {prompts}"

    def _renew(self, found: Kept, profile: Profile | None) -> str:
        """Add a run's measurements to the kept ones, and search for the next run; what came of it."""
        if profile is None and self._written:
            return ""
        try:
            profile = found.profile if profile is None else joined(found.profile, profile)
        except ValueError as error:
            return f"what was measured was not added: {error}"
        plan = self.plan if profile is found.profile else searched(profile, self.preset)
        return "" if plan is None else f"for the next run {self.kept.keep(profile, plan, self.preset, found)}"
