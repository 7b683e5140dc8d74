"""What generations have shown of a model, as a profile that grows, and the plans that are searched from it.

A profile of this kind has bands for all noise levels, some of which may not be measured yet; a plan of it runs at the
others by what is known of the nearest.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from ....kernels.patterns import Pattern
from ....kernels.tiling import KEY_TILE, QUERY_TILE
from ....plans.plan.files import plan_bytes
from ....plans.plan.limits import limits_of
from ....plans.plan.plan import EVERY_SIGMA, FOUND, Band, Plan, Provenance
from ....plans.plan.presets import PRESETS
from ....plans.profile.profile import FLOWS, Profile, ProfileHeader, differing_candidates, merge_profiles
from ....plans.search.cost import HeadCosts
from ....plans.search.search import search_budget

LATER_BANDS = 3
"""Bands of noise levels below the dense start."""
MAX_GENERATIONS = 2
"""That add to a profile: the second measures what the first has left out, then the plan stays as it is."""

SIGMA_SLACK = 1e-5  # schedules are rounded to float32: a step exactly at start_percent is no longer dense start
COMPLETES = "completes"
"""Note of the shipped plan that a found one completes."""
FINGERPRINT, HIGHEST, LOWEST, PATCHED = "fingerprint", "sigma_high", "sigma_low", "patched_weights"
GENERATIONS = "generations"


def calibration_bands(start: float, percent_to_sigma: Callable[[float], float]) -> tuple[tuple[float, float], ...]:
    """(sigma_high, sigma_low) of the dense start, and of equal parts of the schedule below it.

    Args:
        start: part of the schedule where the dense start ends, 0 for none.
    """
    parts = (start + (1 - start) * number / LATER_BANDS for number in range(LATER_BANDS))
    levels = (percent_to_sigma(part) * (1 + SIGMA_SLACK) for part in parts)
    edges = {EVERY_SIGMA, 0.0, *(level for level in levels if 0 < level < EVERY_SIGMA)}
    return tuple(itertools.pairwise(sorted(edges, reverse=True)))


def noted(profile: Profile, notes: dict[str, float | int | str]) -> Profile:
    """The profile with notes among its parameters, such as those named above."""
    header = replace(profile.header, parameters={**profile.header.parameters, **notes})
    return replace(profile, header=header)


def merged(earlier: Profile, profile: Profile) -> Profile:
    """Both profiles' measures together.

    Raises:
        ValueError: they were not measured alike.
    """
    before, now = earlier.header.parameters, profile.header.parameters
    levels = [level for header in (earlier.header, profile.header) for level in noise_levels(header) or ()]
    notes = {**now, **before}  # the model's first fingerprint, whichever copy of it runs now
    notes["rows"] = min(_number(parameters, "rows") or 1 for parameters in (before, now))
    notes[PATCHED] = max(_number(parameters, PATCHED) or 0 for parameters in (before, now))
    notes[GENERATIONS] = generations(earlier.header) + generations(profile.header)
    if levels:
        notes |= {HIGHEST: max(levels), LOWEST: min(levels)}
    return noted(merge_profiles(earlier, profile), notes)


def generations(header: ProfileHeader) -> int:
    """That have added to a profile."""
    return int(_number(header.parameters, GENERATIONS) or 1)


def missing(profile: Profile, sigmas: Sequence[float]) -> bool:
    """Whether a run at these noise levels meets a band in which a layer was not measured yet."""
    bands = profile.header.bands
    met = {number for number, (high, low) in enumerate(bands) for sigma in sigmas if low < sigma <= high}
    return any(not profile.samples[number].all() for number in met)


def searched(profile: Profile, preset: str, costs: HeadCosts | None = None, shipped: Plan | None = None) -> Plan:
    """The plan with a preset's error that a profile gives, for all noise levels; the fastest by these costs.

    Args:
        shipped: plan of the model that this one completes, and that says how sparse it may become.

    Raises:
        SearchError: there is none.
    """
    plan = search_budget(profile, preset=preset, costs=costs, limits=None if shipped is None else limits_of(shipped))
    levels, known = noise_levels(profile.header), profile.header.parameters
    notes = {name: known[name] for name in (FINGERPRINT, PATCHED) if isinstance(known.get(name), str | int | float)}
    text = f"Found for preset {preset}, and used at all noise levels."
    if levels is not None:
        notes |= {HIGHEST: levels[0], LOWEST: levels[1]}
        text = f"{text} Measured at those from {levels[0]:.4g} to {levels[1]:.4g}."
    if shipped is not None:
        notes[COMPLETES] = completes(shipped)
        text = f"{text} Completes the shipped plan of {shipped.provenance.model}, grade {shipped.grade}."
    parameters = {**plan.provenance.parameters, **notes}
    provenance = replace(plan.provenance, parameters=parameters, source=FOUND, notes=text)
    return replace(plan, bands=_joined(plan.bands), provenance=provenance)


def _joined(bands: Sequence[Band]) -> tuple[Band, ...]:
    """Bands that cover all noise levels: each reaches down to the next one."""
    edges = (EVERY_SIGMA, *(band.sigma_high for band in bands[1:]), 0.0)
    levels = itertools.pairwise(edges)
    return tuple(Band(*level, band.heads) for band, level in zip(bands, levels, strict=True))


def completes(shipped: Plan | None) -> str:
    """Which shipped plan a found one completes, in words that change with its content; empty for none."""
    if shipped is None:
        return ""
    return f"{shipped.provenance.model}, {shipped.grade}, {hashlib.sha256(plan_bytes(shipped)).hexdigest()[:8]}"


def noise_levels(header: ProfileHeader | Provenance) -> tuple[float, float] | None:
    """(highest, lowest) noise level that was measured, None where nothing says it."""
    high, low = (_number(header.parameters, name) for name in (HIGHEST, LOWEST))
    return None if high is None or low is None or high < low else (high, low)


def measured_among(header: ProfileHeader | Provenance, sigmas: Sequence[float]) -> bool:
    """Whether one of a run's noise levels lies among those that were measured."""
    high, low = noise_levels(header) or (-1.0, 0.0)
    return any(low * (1 - SIGMA_SLACK) <= sigma <= high * (1 + SIGMA_SLACK) for sigma in sigmas)


def outdated(header: ProfileHeader, candidates: Sequence[Pattern]) -> str | None:
    """Why nothing that is measured now can be added to a profile, None where it can."""
    differing = differing_candidates(header.candidates, candidates)
    if differing is not None:
        return f"it was measured for other candidates than now: {differing}"
    measured = header.query_tile, header.key_tile, header.flow
    now = QUERY_TILE, KEY_TILE, FLOWS[0]
    return None if measured == now else f"it was measured otherwise than now: tiles, flow {measured} and {now}"


def up_to_date(plan: Plan, profile: Profile, preset: str, shipped: Plan | None = None) -> bool:
    """Whether a plan is what `searched` gives, as far as its provenance says; by whichever costs.

    Args:
        shipped: what it has to complete.
    """
    known = plan.provenance.parameters
    expected = (completes(shipped), PRESETS[preset], int(profile.samples.sum()))
    return (known.get(COMPLETES, ""), known.get("error"), known.get("samples")) == expected


def _number(parameters: dict, name: str) -> float | None:
    """A parameter of a file of unknown origin, None where it is no number."""
    value = parameters.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None
