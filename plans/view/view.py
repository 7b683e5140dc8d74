"""A plan as the viewer of the web interface gets it: numbers, words and colours, ready to be shown, for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from ...kernels.patterns import PATTERNS, Pattern
from ..plan.plan import Plan, Provenance
from ..profile.columns import ProfiledStripe
from ..profile.profile import Profile
from ..search.chosen import pattern_of
from ..search.cost import attention_share, head_costs, plan_speedup
from .colours import MARKS, UNSHADED, Colour, ink_on, kind_colour, shaded_colour

HeadNumbers = list[list[list[float]]]
"""[band][layer][head]"""


def plan_view(
    plan: Plan,
    densities: Mapping[int, float] | None = None,
    errors: HeadNumbers | None = None,
    name: str = "",
    grid: tuple[int, int, int] | None = None,
) -> dict:
    """All that the viewer shows of a plan.

    Args:
        densities: of each pattern that a head uses, by its number; on the plan's own grid by default, which takes
            seconds on a large one.
        errors: relative error of each head's output, where it was measured.
        name: under which the plan is listed.
        grid: of densities and expected speed, (frames, height, width) in tokens; the plan's own by default. The speed
            that a plan names holds on its own grid alone.
    """
    of = plan
    if grid not in (None, plan.grid):
        with suppress(ValueError):  # a video larger than any plan's; the plan's own grid is shown then
            of = replace(plan, grid=grid, provenance=Provenance())
    densities = plan.pattern_densities() if densities is None else densities
    costs = head_costs(of, densities).relative.tolist()
    speedup, times = plan_speedup(of, densities)
    origin = plan.provenance
    return {
        "name": name,
        "model": origin.model or plan.family,
        "grade": plan.grade,
        "about": ", ".join(filter(None, (plan.grade, origin.rule, origin.date, origin.source))),
        "layers": plan.layers,
        "heads": plan.heads,
        "grid": list(of.grid),
        "kinds": [_kind_entry(kind) for kind in PATTERNS],
        "patterns": [_pattern_entry(pattern, densities.get(n), costs[n]) for n, pattern in enumerate(plan.patterns)],
        "bands": [
            {"sigma_high": band.sigma_high, "sigma_low": band.sigma_low, "heads": [list(row) for row in band.heads]}
            for band in plan.bands
        ],
        "errors": errors,
        "expected": {"speedup": speedup, "times": times, "share": attention_share(of)},
    }


def _kind_entry(kind: str) -> dict:
    colour = kind_colour(kind)
    return {
        "kind": kind,
        "words": kind.replace("_", " "),
        "colour": _css(colour),
        "ink": _css(ink_on(colour)),
        "mark": list(MARKS.get(kind, ())),
        "shaded": kind not in UNSHADED,
    }


def _pattern_entry(pattern: Pattern, density: float | None, cost: float) -> dict:
    """One that no head uses has no density."""
    colour = shaded_colour(pattern.kind, 1.0 if density is None else density)
    return {
        "kind": pattern.kind,
        "words": pattern.describe(),
        "density": density,
        "cost": cost,
        "colour": _css(colour),
        "ink": _css(ink_on(colour)),
    }


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def measured_errors(plan: Plan, profile: Profile) -> HeadNumbers | None:
    """||dO|| / ||O|| of each head with the plan's pattern, as a profile measured it; None where the profile is of
    another model, size or other noise levels, or lacks one of the patterns."""
    header = profile.header
    alike = ("family", "layers", "heads", "head_dim", "grid")
    bands = [(band.sigma_high, band.sigma_low) for band in plan.bands]
    if any(getattr(plan, name) != getattr(header, name) for name in alike) or not {*bands} <= {*header.bands}:
        return None
    relative = profile.measures["relative"].sqrt().tolist()
    finder = _Finder(profile)
    try:
        return [
            [[relative[at][layer][head][finder.number(plan.patterns[n], (at, layer, head))]
              for head, n in enumerate(row)] for layer, row in enumerate(band.heads)]
            for at, band in zip(map(header.bands.index, bands), plan.bands, strict=True)
        ]  # fmt: skip
    except KeyError:
        return None


class _Finder:
    """Numbers of patterns among a profile's candidates."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self.numbers = {pattern: number for number, pattern in enumerate(profile.header.candidates)}
        self.stripes = [n for pattern, n in self.numbers.items() if isinstance(pattern, ProfiledStripe)]

    def number(self, pattern: Pattern, place: tuple[int, int, int]) -> int:
        """Of a head's pattern, its (band, layer, head) in the profile.

        Raises:
            KeyError: none of the candidates gives it.
        """
        if pattern in self.numbers:
            return self.numbers[pattern]
        for number in self.stripes:
            if pattern_of(self.profile, place, number) == pattern:
                return number
        raise KeyError(pattern)
