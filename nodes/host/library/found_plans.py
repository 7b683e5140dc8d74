"""The found plan of one model for one preset: what is kept of it, what a run adds, which plan comes of both."""

from __future__ import annotations

from collections.abc import Callable

from ....plans.plan.plan import Plan
from ....plans.profile.profile import Profile, ProfileHeader
from ....plans.search.cost import HeadCosts, profile_costs
from ....plans.search.search import SearchError
from . import found
from .found import GENERATIONS, MAX_GENERATIONS
from .stored import Grid, PlanStore, Stored, plan_name

NONE_GIVEN = "no plan connected and none shipped: "
NEW = "found in this run"
FOR_NEXT = "for the next run "
ONCE_MORE = "; with the same seed the next video differs once, then it stays the same"
TWICE_MORE = (
    "; with the same seed the next two videos may differ, as some layers were not measured, then it stays the same"
)


class FoundPlans:
    """A `policies.calibrate.Keeper`.

    Args:
        store: files of the model.
        preset: whose error plans have.
        grid: of the run, (frames, height, width) in tokens; None where it is not known yet.
        costs: what candidates take, by which plans are the fastest; by a count of operations by default.
        shipped: plan of the model that is to be completed, None where none ships.

    Attributes:
        stored: what is kept, None for nothing.
        plan: that is kept or was found, None where there is none.
    """

    def __init__(
        self,
        store: PlanStore,
        preset: str,
        grid: Grid | None,
        costs: Callable[[ProfileHeader], HeadCosts] = profile_costs,
        shipped: Plan | None = None,
    ):
        self.store, self.preset, self.grid, self.costs, self.shipped = store, preset, grid, costs, shipped
        self.stored, self.plan = store.find(grid), None
        self._trouble: str | None = None
        self._written = False
        self._ran: list[Plan] = []
        if self.stored is not None:
            self._known_plan(self.stored)

    def _known_plan(self, stored: Stored) -> None:
        plan = self.store.plan(stored, self.preset)
        self._written = plan is not None and found.up_to_date(plan, stored.profile, self.preset, self.shipped)
        try:
            name = plan_name(stored.stem, self.preset)
            self.plan = plan if self._written else self._searched(stored.profile).named(name)
        except SearchError as error:
            self._trouble = f"no plan was found: {error}"

    def wants_more(self) -> bool:
        """Whether this run is to be measured: the first of all, and the second where the first left something out."""
        if self.stored is None:
            return True
        profile = self.stored.profile
        once_more = self.stored.grid == self.grid and found.generations(profile.header) < MAX_GENERATIONS
        return once_more and found.missing(profile, self.store.sigmas)

    def known(self) -> frozenset[tuple[int, int]]:
        """(band, layer) that earlier runs have measured."""
        measured = [] if self.stored is None else self.stored.profile.samples.nonzero().tolist()
        return frozenset(map(tuple, measured))

    def measured_up_to(self) -> float:
        """The highest noise level that the kept plan was measured at, 0 where there is none."""
        levels = None if self.stored is None else found.noise_levels(self.stored.profile.header)
        return 0.0 if levels is None else levels[0]

    def search(self, profile: Profile) -> Plan:
        """The plan of a first run, from now on.

        Raises:
            SearchError: there is none.
        """
        self.plan = self._searched(profile).named(NEW)
        self._ran.append(self.plan)
        return self.plan

    def keep(self, profile: Profile | None) -> list[str]:
        """Keep what a run has measured, if anything; the run's plan in words, and what came of it.

        Raises:
            SearchError: the measurements give no plan.
        """
        used = [self._begun_with() + self._used()] if self.plan is not None else []
        with self.store.alone():
            if profile is None and self.stored is not None and self.wants_more():
                # what could not be measured now will not be later either, and would change the plan
                self.stored = self.store.find(self.grid) or self.stored  # another run may have added to it
                closed = found.noted(self.stored.profile, {GENERATIONS: MAX_GENERATIONS})
                self.store.keep(closed, self._searched(closed), self.preset, self.stored)
            kept = self._renew() if profile is None else self._add(profile)
        return [*used, *filter(None, [kept, self._trouble, *self.store.messages])]

    def _searched(self, profile: Profile) -> Plan:
        return found.searched(profile, self.preset, self.costs(profile.header), self.shipped)

    def _begun_with(self) -> str:
        """What was there before anything was calibrated."""
        if self.shipped is None:
            return NONE_GIVEN
        return f"{self.shipped.label} ({self.shipped.grade}) completed: "

    def _used(self) -> str:
        """The run's plan in words."""
        return NEW if self.stored is None else f"calibrated plan of {self.plan.provenance.date}"

    def _add(self, profile: Profile) -> str:
        """Add a run's measurements to what is kept by now, perhaps of another ComfyUI, and keep the plan of both."""
        now = self.store.find(profile.header.grid)
        if now is not None and now.grid == profile.header.grid:
            try:
                profile = found.merged(now.profile, profile)
            except ValueError as error:
                return f"what was measured was not added: {error}"
        else:
            now = None
        plan = self._searched(profile)
        kept = self.store.keep(profile, plan, self.preset, now)
        ran = self._ran or [known for known in [self.plan] if known is not None]
        differs = any((plan.patterns, plan.bands) != (known.patterns, known.bands) for known in ran)
        if found.generations(profile.header) < MAX_GENERATIONS and found.missing(profile, self.store.sigmas):
            return _for_next(kept, TWICE_MORE)
        return _for_next(kept, ONCE_MORE if differs else "")

    def _renew(self) -> str:
        """Keep a plan that was searched from the kept profile alone."""
        searched_now = self.stored is not None and self.plan is not None and not self._written
        return _for_next(self.store.keep_plan(self.stored, self.plan, self.preset)) if searched_now else ""


def _for_next(kept: str, more: str = "") -> str:
    """What `PlanStore.keep` says, with what that means for the runs that follow."""
    return f"{FOR_NEXT}{kept}{more}" if kept.startswith("kept") else kept
