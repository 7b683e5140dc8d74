"""From a profile to a plan: by the paper's rule, or by one error budget over the whole model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...kernels.patterns import Skip
from ..plan.limits import Limits
from ..plan.plan import Plan
from ..plan.presets import PRESETS
from ..profile.columns import ProfiledStripe
from ..profile.profile import Profile
from ..profile.rules import DEFAULT_EPSILON, DEFAULT_LAMBDA, paper_choice, paper_kinds, saving
from .chosen import plan_of
from .cost import HeadCosts, profile_costs
from .lagrange import OutOfReachError, solve

DEFAULT_SKIPPED, SKIP_LIMIT = 0.03, 0.06  # shares of heads: by default, and at most (Sparse-vDiT skips 1-6 %)
MAX_STRIPES = 128  # heads with columns of their own, whose tile lists take some 80 KB each at 75,600 tokens
# Heads that look at single keys have most of their error in few rows. The candidate that seems best on sampled rows is
# then the one whose worst rows were missed. Where an error is promised, each is therefore taken to be this many
# standard errors worse than it seems; where a density or a speed-up is, that would mislead (.7 and .9 dB, small Wan).
CAUTION = 2.0
MIN_MASS = 0.02  # a candidate that keeps less of the softmax mass renormalises noise: infeasible, not "small error"


class SearchError(ValueError):
    """The profile or the target gives no plan; the message says what to change."""


def search_paper(
    profile: Profile,
    lam: float = DEFAULT_LAMBDA,
    epsilon: float = DEFAULT_EPSILON,
    costs: HeadCosts | None = None,
) -> Plan:
    """Eq. 2 and 3 per head. On a profile of sequential flow with the same lambda and epsilon this is Algorithm 1:
    the choices made while the sparse outputs flowed on, by majority over the observations of a band.

    Args:
        costs: of the candidates, for the speed-up that the plan tells of; by a FLOP model by default.

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
    parameters: dict = {"lambda": lam, "epsilon": epsilon, "flow": profile.header.flow}
    parameters |= predicted_error(choice, *_relative_errors(profile, bands))
    return plan_of(profile, bands, choice, "paper", parameters, costs)


def search_budget(
    profile: Profile,
    density: float | None = None,
    error: float | None = None,
    most_skipped: float = DEFAULT_SKIPPED,
    *,
    speedup: float | None = None,
    preset: str | None = None,
    costs: HeadCosts | None = None,
    limits: Limits | None = None,
) -> Plan:
    """One budget over all bands, layers and heads on the output-projected error (`lagrange.py`).

    Minimises the time of attention for an error or a preset, or the sum of errors ||W_O dO||^2 for a density or a
    speed-up. Exactly one of the four is given.

    Args:
        density: wanted mean density over all heads.
        error: wanted sqrt(sum ||W_O dO||^2 / sum ||W_O O||^2), with CAUTION; a preset is one too.
        most_skipped: largest share of heads, over all bands, that may be skipped.
        speedup: how many times as fast as the model's own attention.
        preset: name of an error in PRESETS.
        costs: of the candidates; by a FLOP model by default.
        limits: densities that the plan must not fall below, whatever else the target allows.

    Raises:
        SearchError: not exactly one target, a target out of range or out of reach, or nothing was observed.
    """
    name, target = _one_target({"density": density, "error": error, "speedup": speedup}, preset)
    if not 0 <= most_skipped <= SKIP_LIMIT:
        raise SearchError(f"most_skipped is {most_skipped}, expected 0 to {SKIP_LIMIT}: more heads than that matter")
    bands = _bands(profile)
    costs = costs or profile_costs(profile.header)
    errors, variance = _relative_errors(profile, bands)
    feasible = _feasible(profile, bands, errors, most_skipped)
    if limits is not None:
        feasible &= _within(limits, profile)
    caution = 0.0 if name in ("density", "speedup") else CAUTION
    seen, likely = (e.masked_fill(~feasible, torch.inf) for e in (errors, errors + caution * variance.sqrt()))
    densities = torch.tensor(profile.header.densities, dtype=torch.float64)
    times, densities = (shares.expand_as(errors) / feasible[..., 0].numel() for shares in (costs.relative, densities))
    try:
        if name == "density":
            found = solve(likely, densities, target)
        elif name == "speedup":
            found = solve(likely, times, 1 / target)
        else:
            found = solve(times, likely, target**2)
        if limits is not None and densities.gather(-1, found.choice[..., None]).sum() < limits.mean:
            found = solve(seen, densities, limits.mean)  # where a density is given, caution would mislead
    except OutOfReachError as reason:
        raise SearchError(_out_of_reach(profile, name, target, preset, reason.times)) from reason
    parameters: dict = {name: target} if preset is None else {"preset": preset, "error": target}
    if limits is not None:
        parameters["least_density"] = limits.mean
    parameters |= {"gap": float(f"{found.gap:.2g}"), "most_skipped": most_skipped}
    parameters |= predicted_error(found.choice, errors, variance)
    return plan_of(profile, bands, found.choice, "budget", parameters, costs)


def _one_target(numbers: dict[str, float | None], preset: str | None) -> tuple[str, float]:
    """Name and value of the only target that is given, checked; of a preset, its error."""
    targets = [(name, value) for name, value in numbers.items() if value is not None]
    count = len(targets) + (preset is not None)
    if count != 1:
        raise SearchError(f"give exactly one target of {', '.join((*numbers, 'preset'))}, not {count}")
    if preset is not None:
        if preset not in PRESETS:
            raise SearchError(f"preset {preset!r} is unknown, expected one of {', '.join(PRESETS)}")
        return "error", PRESETS[preset]
    ((name, value),) = targets
    if name == "speedup" and not 1 <= value < math.inf:
        raise SearchError(f"target speedup is {value}, expected a number of at least 1")
    if name != "speedup" and not 0 < value <= 1:
        raise SearchError(f"target {name} is {value}, expected above 0 and at most 1")
    return name, value


def predicted_error(choice: Tensor, errors: Tensor, variance: Tensor) -> dict[str, float]:
    """Error of a plan, sqrt(sum ||W_O dO||^2 / sum ||W_O O||^2) with errors of heads added up as if independent,
    and how far off it may be (1.96 standard errors) for the sampling of rows alone: heads of a call share their rows,
    the plan was chosen by the same errors, and prompts differ, so it is the least that it may be off.

    Args:
        choice: (bands, layers, heads).
        errors, variance: relative to the sum of powers and its square, (bands, layers, heads, candidates).
    """
    squared = errors.gather(-1, choice[..., None]).sum().item()
    deviation = variance.gather(-1, choice[..., None]).sum().item() ** 0.5
    low, high = (max(0.0, squared + side * 1.96 * deviation) ** 0.5 for side in (-1, 1))
    return {"predicted_error": round(squared**0.5, 4), "predicted_error_margin": round((high - low) / 2, 4)}


def _relative_errors(profile: Profile, bands: list[int]) -> tuple[Tensor, Tensor]:
    """||W_O dO||^2 relative to the sum of ||W_O O||^2, and its variance by sampling: both (bands, layers, heads,
    candidates)."""
    errors, power = profile.measures["projected"][bands], profile.measures["power"][bands][..., 0]
    variance = profile.sampling_variance()[bands]
    total = power.sum().clamp_min(1e-30)
    return errors / total, variance / total**2


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


def _out_of_reach(profile: Profile, name: str, target: float, preset: str | None, times: float) -> str:
    """What to give instead of a target that needs `times` the least that is possible, and why."""
    larger = "or profile a larger video, where windows are a smaller part"
    grid = f"{'x'.join(map(str, profile.header.grid))} tokens"
    if name == "density":
        lowest = math.ceil(100 * target * times) / 100
        return f"density {target} cannot be reached on {grid}, the lowest is {lowest}: raise it, {larger}"
    if name == "speedup":
        highest = math.floor(100 * target / times) / 100
        return f"speed-up {target} cannot be reached on {grid}, the highest is {highest}: lower it, {larger}"
    error = f"{target * times**0.5:.3g}"
    if preset is None:
        return f"error {target} cannot be reached, the lowest is {error}: raise it"
    return f"preset {preset} (error {target}) cannot be reached, the lowest error is {error}: ask for that error"


def _feasible(profile: Profile, bands: list[int], errors: Tensor, most_skipped: float) -> Tensor:
    """What each head may take: bool (bands, layers, heads, candidates), as the errors."""
    mass = profile.measures["kept_mass"][bands] >= MIN_MASS
    densities = torch.tensor(profile.header.densities, dtype=torch.float64)
    skip, striped = (
        torch.tensor([isinstance(pattern, kind) for pattern in profile.header.candidates])
        for kind in (Skip, ProfiledStripe)
    )
    allowed = (mass | skip) & saving(densities)
    allowed &= ~skip | _skippable(errors[..., skip], most_skipped)
    return allowed & (~striped | _stripable(errors.masked_fill(~allowed, torch.inf), densities, striped))


def _within(limits: Limits, profile: Profile) -> Tensor:
    """Candidates no sparser than each head may be, dense always: bool (layers, heads, candidates)."""
    densities = torch.tensor(profile.header.densities, dtype=torch.float64)
    allowed = densities >= limits.heads[..., None]
    allowed[..., 0] = True
    return allowed


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
    best = gains.flatten().argsort(descending=True)[:MAX_STRIPES]
    allowed = torch.zeros(gains.numel(), dtype=torch.bool)
    allowed[best] = gains.flatten()[best] > 0
    return allowed.view(*gains.shape, 1)


def _bands(profile: Profile) -> list[int]:
    bands = profile.measured_bands()
    if not bands:
        raise SearchError("no sigma band of the profile was observed in every layer; profile with more steps")
    return bands
