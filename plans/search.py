"""From a profile to a plan: by the paper's rule, or by one error budget over the whole model."""

from __future__ import annotations

import datetime
import math
from functools import lru_cache

import torch
from torch import Tensor

from ..kernels.grid import TokenGrid
from ..kernels.patterns import Pattern, Skip
from ..kernels.tiling import Tiling
from .columns import Cells, ProfiledStripe
from .lagrange import OutOfReachError, solve
from .plan import Band, Plan, Provenance
from .profile import Profile
from .rules import DEFAULT_EPSILON, DEFAULT_LAMBDA, paper_choice, paper_kinds, saving

MOST_SKIPPED, SKIP_LIMIT = 0.03, 0.06  # shares of heads: by default, and at most (Sparse-vDiT skips 1-6 %)
MOST_STRIPES = 128  # heads with columns of their own, whose tile lists take some 80 KB each at 75,600 tokens
LEAST_MASS = 0.02  # a candidate that keeps less of the softmax mass renormalises noise: infeasible, not "small error"


class SearchError(ValueError):
    """The profile or the target gives no plan; the message says what to change."""


def search_paper(profile: Profile, lam: float = DEFAULT_LAMBDA, epsilon: float = DEFAULT_EPSILON) -> Plan:
    """Eq. 2 and 3 per head. On a profile of sequential flow with the same lambda and epsilon this is Algorithm 1:
    the choices made while the sparse outputs flowed on, by majority over the observations of a band.

    Raises:
        SearchError: no band was observed in every layer.
    """
    bands = _bands(profile)
    used = profile.header.parameters
    if profile.header.flow == "sequential" and (used.get("lambda"), used.get("epsilon")) == (lam, epsilon):
        choice = profile.votes[bands].argmax(-1)
    else:
        densities = torch.tensor(profile.header.densities, dtype=torch.float64)
        allowed = saving(densities) & paper_kinds(profile.header.candidates)
        mse = profile.measures["mse"][bands].masked_fill(~allowed, torch.inf)
        choice = paper_choice(mse, densities, lam, epsilon)
    parameters = {"lambda": lam, "epsilon": epsilon, "flow": profile.header.flow}
    errors, total = _relative_errors(profile, bands)
    parameters |= predicted_error(choice, errors, profile.sampling_variance()[bands] / total**2)
    return _plan(profile, bands, choice, "paper", parameters)


def search_budget(
    profile: Profile,
    density: float | None = None,
    error: float | None = None,
    weights: Tensor | None = None,
    most_skipped: float = MOST_SKIPPED,
) -> Plan:
    """One budget over all bands, layers and heads on the output-projected error (`lagrange.py`).

    Minimises the sum of densities for an error, or the sum of errors w * ||W_O dO||^2 for a density.

    Args:
        density: wanted mean density over all heads, or
        error: wanted sqrt(sum w ||W_O dO||^2 / sum w ||W_O O||^2); exactly one of the two.
        weights: sensitivity w of the result to an error, broadcastable to (bands, layers, heads); 1 by default.
        most_skipped: largest share of heads, over all bands, that may be skipped.

    Raises:
        SearchError: not exactly one target, a target out of range or out of reach, or nothing was observed.
    """
    if (density is None) == (error is None):
        raise SearchError("give exactly one target, a density or an error")
    target = density if error is None else error
    if not 0 < target <= 1:
        name = "density" if error is None else "error"
        raise SearchError(f"target {name} is {target}, expected above 0 and at most 1")
    if not 0 <= most_skipped <= SKIP_LIMIT:
        raise SearchError(f"most_skipped is {most_skipped}, expected 0 to {SKIP_LIMIT}: more heads than that matter")
    bands = _bands(profile)
    if weights is not None:
        weights = weights.expand((*profile.samples.shape, profile.header.heads))[bands]
    errors, total = _relative_errors(profile, bands, weights)
    densities = torch.tensor(profile.header.densities, dtype=torch.float64)
    cost = densities.expand_as(errors) / errors[..., 0].numel()
    feasible = profile.measures["kept_mass"][bands] >= LEAST_MASS
    skip = torch.tensor([isinstance(pattern, Skip) for pattern in profile.header.candidates])
    feasible = (feasible | skip) & saving(densities)
    feasible &= ~skip | _skippable(errors[..., skip], most_skipped)
    striped = torch.tensor([isinstance(pattern, ProfiledStripe) for pattern in profile.header.candidates])
    feasible &= ~striped | _stripable(errors.masked_fill(~feasible, torch.inf), densities, striped)
    errors, cost = (values.masked_fill(~feasible, torch.inf) for values in (errors, cost))
    try:
        found = solve(errors, cost, density) if error is None else solve(cost, errors, error**2)
    except OutOfReachError as reason:
        raise SearchError(_out_of_reach(profile, target, reason.times, error is None)) from reason
    parameters = {"density": density} if error is None else {"error": error}
    parameters |= {"gap": float(f"{found.gap:.2g}"), "most_skipped": most_skipped}
    variance = profile.sampling_variance()[bands] * (1 if weights is None else weights[..., None].square())
    parameters |= predicted_error(found.choice, errors, variance / total**2)
    return _plan(profile, bands, found.choice, "budget", parameters)


def predicted_error(choice: Tensor, errors: Tensor, variance: Tensor) -> dict[str, float]:
    """Error of a plan, sqrt(sum ||W_O dO||^2 / sum ||W_O O||^2) with errors of heads added up as if independent, and
    how far off it may be (1.96 standard errors) for the sampling of rows alone: heads of a call share their rows, the
    plan was chosen by the same errors, and prompts differ, so it is the least that it may be off.

    Args:
        choice: (bands, layers, heads).
        errors, variance: relative to the sum of powers and its square, (bands, layers, heads, candidates).
    """
    squared = errors.gather(-1, choice[..., None]).sum().item()
    deviation = variance.gather(-1, choice[..., None]).sum().item() ** 0.5
    low, high = (max(0.0, squared + side * 1.96 * deviation) ** 0.5 for side in (-1, 1))
    return {"predicted_error": round(squared**0.5, 4), "predicted_error_margin": round((high - low) / 2, 4)}


def _relative_errors(profile: Profile, bands: list[int], weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """w ||W_O dO||^2 (bands, layers, heads, candidates) relative to the sum of w ||W_O O||^2, and that sum."""
    errors, power = profile.measures["projected"][bands], profile.measures["power"][bands][..., 0]
    if weights is not None:
        errors, power = errors * weights[..., None], power * weights
    total = power.sum().clamp_min(1e-30)
    return errors / total, total


def skip_warning(plan: Plan) -> str | None:
    """A warning when a plan leaves more heads out than can be right, None when it does not; such a plan still runs."""
    counts = plan.counts()
    share = counts[Skip.kind] / sum(counts.values())
    if share <= SKIP_LIMIT:
        return None
    return (
        f"the plan skips {share:.0%} of the heads, and beyond {SKIP_LIMIT:.0%} videos are likely to suffer: use a "
        "budget instead of the paper's rule, or a smaller lambda"
    )


def _out_of_reach(profile: Profile, target: float, times: float, is_density: bool) -> str:
    """What to type instead of a target, and why."""
    grid = "x".join(map(str, profile.header.grid))
    if is_density:
        lowest = math.ceil(100 * target * times) / 100
        return (
            f"density {target} cannot be reached on {grid} tokens, the lowest is {lowest}: raise it, or "
            "profile a larger video, where windows are a smaller part"
        )
    return f"error {target} cannot be reached, the lowest is {target * times**0.5:.3g}: raise it"


def _skippable(errors: Tensor, share: float) -> Tensor:
    """Heads that may be skipped, those whose skipping costs least: bool (bands, layers, heads, 1).

    Args:
        errors: of skipping, (bands, layers, heads, 1); without a column where skip is no candidate.
    """
    allowed = torch.zeros(*errors.shape[:-1], 1, dtype=torch.bool)
    count = int(share * allowed.numel())
    if errors.shape[-1] and count:
        allowed.view(-1)[errors[..., 0].flatten().argsort()[:count]] = True
    return allowed


def _stripable(errors: Tensor, densities: Tensor, striped: Tensor) -> Tensor:
    """Heads that may have columns of their own, those that gain most by it: bool (bands, layers, heads, 1).

    Args:
        errors: (bands, layers, heads, candidates), infinite for what must not be taken.
        striped: which candidates have such columns, (candidates,).
    """
    gains = torch.zeros(errors.shape[:-1], dtype=errors.dtype)
    for number in striped.nonzero().flatten().tolist():
        others = errors.masked_fill(striped | (densities > densities[number]), torch.inf)
        gain = others.amin(-1) - errors[..., number]
        gains = torch.where(gain.isnan(), gains, torch.maximum(gains, gain))  # none of both can be taken
    best = gains.flatten().argsort(descending=True)[:MOST_STRIPES]
    allowed = torch.zeros(gains.numel(), dtype=torch.bool)
    allowed[best] = gains.flatten()[best] > 0
    return allowed.view(*gains.shape, 1)


def _bands(profile: Profile) -> list[int]:
    bands = profile.measured_bands()
    if not bands:
        raise SearchError("no sigma band of the profile was observed in every layer; profile with more steps")
    return bands


def _plan(profile: Profile, bands: list[int], choice: Tensor, rule: str, parameters: dict) -> Plan:
    """The plan of a choice (bands, layers, heads), with only the patterns that are used."""
    header = profile.header
    found = {place: _pattern(profile, bands, place, number) for place, number in _places(choice)}
    numbers = {found[place]: number for place, number in _places(choice)}
    short = {pattern: position for position, pattern in enumerate(sorted(numbers, key=numbers.get))}
    tables = [
        tuple(tuple(short[found[band, layer, head]] for head in range(header.heads)) for layer in range(header.layers))
        for band in range(len(bands))
    ]
    return Plan(
        family=header.family,
        layers=header.layers,
        heads=header.heads,
        head_dim=header.head_dim,
        grid=header.grid,
        patterns=tuple(short),
        bands=tuple(Band(*header.bands[band], table) for band, table in zip(bands, tables, strict=True)),
        grade="measured",
        provenance=Provenance(
            model=header.model,
            rule=rule,
            parameters={
                **parameters,
                "projected": "yes" if header.projected else "no",
                "query_tile": header.query_tile,
                "key_tile": header.key_tile,
                "candidates": len(header.candidates),
                "samples": int(profile.samples.sum()),
            },
            prompts=header.prompts,
            versions=dict(header.versions),
            date=datetime.date.today().isoformat(),
        ),
    )


def _places(choice: Tensor) -> list[tuple[tuple[int, int, int], int]]:
    """Every (band, layer, head) with its candidate."""
    return [(tuple(place), int(choice[tuple(place)])) for place in torch.ones_like(choice).nonzero().tolist()]


def _pattern(profile: Profile, bands: list[int], place: tuple[int, int, int], number: int) -> Pattern:
    """A head's candidate as the plan has it: a stripe with the columns that its profile found."""
    header, (band, layer, head) = profile.header, place
    pattern = header.candidates[number]
    if not isinstance(pattern, ProfiledStripe):
        return pattern
    cells = _cells(header.grid, pattern.order, header.query_tile, header.key_tile)
    return cells.stripe(profile.columns[bands[band], layer, head], pattern.share)


@lru_cache(maxsize=2)
def _cells(grid: tuple[int, int, int], order: str, query_tile: int, key_tile: int) -> Cells:
    return Cells(Tiling(TokenGrid(*grid), order, query_tile, key_tile))
