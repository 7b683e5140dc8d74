"""From a profile to a plan: by the paper's rule, or by one error budget over the whole model."""

from __future__ import annotations

import datetime

import torch
from torch import Tensor

from ..kernels.patterns import Skip
from .plan import Band, Plan, Provenance
from .profile import Profile
from .rules import DEFAULT_EPSILON, DEFAULT_LAMBDA, paper_choice, paper_kinds

MOST_DENSITY = 0.97  # windows as large as a short video are dense in disguise: no gain, and a misleading name
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
        allowed = _useful(profile) & paper_kinds(profile.header.candidates)
        mse = profile.measures["mse"][bands].masked_fill(~allowed, torch.inf)
        choice = paper_choice(mse, densities, lam, epsilon)
    return _plan(profile, bands, choice, "paper", {"lambda": lam, "epsilon": epsilon, "flow": profile.header.flow})


def search_budget(
    profile: Profile, density: float | None = None, error: float | None = None, weights: Tensor | None = None
) -> Plan:
    """One budget over all bands, layers and heads on the output-projected error, by a Lagrange multiplier.

    Minimises sum(density) + mu * sum(w * ||W_O dO||^2) for the mu that meets the target; what is left of the target is
    then spent on the heads where it helps most.

    Args:
        density: wanted mean density over all heads, or
        error: wanted sqrt(sum w ||W_O dO||^2 / sum w ||W_O O||^2); exactly one of the two.
        weights: sensitivity w of the result to an error, broadcastable to (bands, layers, heads); 1 by default.

    Raises:
        SearchError: not exactly one target, a target out of range or out of reach, or nothing was observed.
    """
    if (density is None) == (error is None):
        raise SearchError("give exactly one target, a density or an error")
    target = density if error is None else error
    if not 0 < target <= 1:
        name = "density" if error is None else "error"
        raise SearchError(f"target {name} is {target}, expected above 0 and at most 1")
    bands = _bands(profile)
    errors, power = profile.measures["projected"][bands], profile.measures["power"][bands][..., 0]
    if weights is not None:
        weights = weights.expand((*profile.samples.shape, profile.header.heads))[bands]
        errors, power = errors * weights[..., None], power * weights
    errors = errors / power.sum().clamp_min(1e-30)
    cost = torch.tensor(profile.header.densities, dtype=torch.float64).expand_as(errors) / power.numel()
    feasible = profile.measures["kept_mass"][bands] >= LEAST_MASS
    feasible |= torch.tensor([isinstance(pattern, Skip) for pattern in profile.header.candidates])
    feasible &= _useful(profile)
    errors = torch.where(feasible, errors, torch.inf)
    if error is None:
        choice = _budget(errors, cost, density)
    else:
        choice = _budget(cost.masked_fill(~feasible, torch.inf), errors, error**2)
    parameters = {"density": density} if error is None else {"error": error}
    return _plan(profile, bands, choice, "budget", parameters)


def _budget(objective: Tensor, spent: Tensor, limit: float) -> Tensor:
    """Candidate per head with the least sum of objective at a sum of spent <= limit; infinite entries are never taken.

    Bisection on the multiplier gives the lower convex hull's best plan; single exchanges then use the rest.
    """

    def choose(price: float) -> Tensor:
        return torch.where(objective.isinf() | spent.isinf(), torch.inf, objective + price * spent).argmin(-1)

    def total(choice: Tensor) -> float:
        return spent.gather(-1, choice[..., None]).sum().item()

    limit *= 1 + 1e-9  # sums of equal parts come out a rounding error apart
    low, high = -40.0, 60.0  # exponents of 2
    choice = choose(2.0**high)
    if total(choice) > limit:
        raise SearchError(
            f"the target is out of reach, the cheapest plan takes {total(choice) / limit:.2f} times as much: raise it"
        )
    for _ in range(80):
        middle = (low + high) / 2
        trial = choose(2.0**middle)
        if total(trial) <= limit:
            high, choice = middle, trial
        else:
            low = middle
    return _exchange(objective, spent, choice, limit - total(choice))


def _exchange(objective: Tensor, spent: Tensor, choice: Tensor, left: float) -> Tensor:
    """Spend what is left on single heads, best gain per spending first, as long as one fits."""
    shape = choice.shape
    objective, spent, choice = objective.flatten(0, -2), spent.flatten(0, -2), choice.flatten()
    rows = torch.arange(len(choice))
    for _ in range(4 * len(choice)):
        gain = objective[rows, choice][:, None] - objective
        extra = spent - spent[rows, choice][:, None]
        rate = torch.where((gain > 0) & (extra <= left), gain / extra.clamp_min(1e-15), -torch.inf)
        best = rate.max()
        if not best > 0:
            break
        row, candidate = divmod(int(rate.argmax()), rate.shape[1])
        left -= extra[row, candidate].item()
        choice[row] = candidate
    return choice.view(shape)


def _useful(profile: Profile) -> Tensor:
    """Candidates that are dense or save something on the profile's grid: bool (candidates,)."""
    useful = torch.tensor(profile.header.densities) <= MOST_DENSITY
    useful[0] = True
    return useful


def _bands(profile: Profile) -> list[int]:
    bands = profile.measured_bands()
    if not bands:
        raise SearchError("no sigma band of the profile was observed in every layer; profile with more steps")
    return bands


def _plan(profile: Profile, bands: list[int], choice: Tensor, rule: str, parameters: dict) -> Plan:
    """The plan of a choice (bands, layers, heads), with only the candidates that are used."""
    header = profile.header
    used = sorted({int(number) for number in choice.flatten()})
    short = {number: position for position, number in enumerate(used)}
    tables = [tuple(tuple(short[n] for n in row) for row in band) for band in choice.tolist()]
    return Plan(
        family=header.family,
        layers=header.layers,
        heads=header.heads,
        head_dim=header.head_dim,
        grid=header.grid,
        patterns=tuple(header.candidates[number] for number in used),
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
