"""One candidate for each head under one budget over all of them: a multiple-choice knapsack.

Minimises sum(objective) subject to sum(spent) <= limit. For a price p of the budget the heads separate, each takes the
least objective + p * spent; bisection finds the price that meets the limit. What is then left of the budget is less
than one head's step, so the choice is nearly the best there is; how nearly, the dual bound says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LOWEST, _HIGHEST, _HALVINGS = -40.0, 60.0, 48  # exponents of 2 of the price, found to 4e-13
_PASSES = 8
_FEW = 3000  # costs in all, up to which pairs of them are compared


class OutOfReachError(ValueError):
    """Even the choice that spends least is over the limit; `times` says by how much."""

    def __init__(self, times: float):
        super().__init__(f"the cheapest choice spends {times:.2f} times the limit")
        self.times = times


@dataclass(frozen=True)
class Solution:
    """A choice and how good it is.

    Attributes:
        choice: candidate of each head, int64 (...).
        objective: its sum.
        bound: no choice within the limit, nor a mixture of choices, has a smaller sum than this.
    """

    choice: Tensor
    objective: float
    bound: float

    @property
    def gap(self) -> float:
        """How much worse than the bound, relative to it; at least 0."""
        missing = self.objective - max(0.0, self.bound)  # costs are not negative
        return 0.0 if missing < 1e-12 else missing / max(self.bound, 1e-12)


def solve(objective: Tensor, spent: Tensor, limit: float) -> Solution:
    """The solution for costs (..., candidates), float64; infinite entries are never taken.

    Raises:
        OutOfReachError: no choice is within the limit.
    """
    shape = objective.shape[:-1]
    objective, spent = objective.flatten(0, -2), spent.flatten(0, -2)
    never = objective.isinf() | spent.isinf()
    objective, spent = objective.masked_fill(never, torch.inf), spent.masked_fill(never, torch.inf)
    limit *= 1 + 1e-9  # sums of equal parts come out a rounding error apart
    low, high = _LOWEST, _HIGHEST
    priced = torch.empty_like(objective)  # one for all prices: making it anew takes longer than filling it
    choice = _cheapest(objective, spent, 2.0**high, priced)
    if _total(spent, choice) > limit:
        raise OutOfReachError(_total(spent, choice) / limit)
    bound = -torch.inf
    for _ in range(_HALVINGS):
        price = 2.0 ** ((low + high) / 2)
        trial = _cheapest(objective, spent, price, priced)
        used = _total(spent, trial)
        bound = max(bound, _total(objective, trial) + price * (used - limit))
        if used <= limit:
            high, choice = (low + high) / 2, trial
        else:
            low = (low + high) / 2
    choice = _spend_rest(objective, spent, choice, limit - _total(spent, choice))
    if objective.numel() <= _FEW:  # of few heads one step is a large part
        choice = _exchange_pairs(objective, spent, choice, limit)
    return Solution(choice.view(shape), _total(objective, choice), bound)


def _cheapest(objective: Tensor, spent: Tensor, price: float, priced: Tensor) -> Tensor:
    return torch.add(objective, spent, alpha=price, out=priced).argmin(-1)


def _total(values: Tensor, choice: Tensor) -> float:
    return values.gather(-1, choice[:, None]).sum().item()


def _spend_rest(objective: Tensor, spent: Tensor, choice: Tensor, left: float) -> Tensor:
    """Exchange single candidates, best gain per spending first, as long as one fits in what is left."""
    rows = torch.arange(len(choice))
    for _ in range(_PASSES):
        gain = objective[rows, choice][:, None] - objective
        extra = spent - spent[rows, choice][:, None]
        rate = torch.where((gain > 0) & (extra <= left), gain / extra.clamp_min(1e-15), -torch.inf)
        best, candidate = rate.max(-1)
        exchanged = False
        for row in best.argsort(descending=True)[: int(best.isfinite().sum())].tolist():
            cost = extra[row, candidate[row]].item()
            if cost <= left:
                choice[row], left, exchanged = candidate[row], left - cost, True
        if not exchanged:
            break
    return choice


def _exchange_pairs(objective: Tensor, spent: Tensor, choice: Tensor, limit: float) -> Tensor:
    """Exchange the candidates of two heads at once, best gain first, as long as a pair within the limit gains."""
    heads, candidates = objective.shape
    rows = torch.arange(heads)
    same = rows.repeat_interleave(candidates)
    for _ in range(4 * heads):
        gain = (objective[rows, choice][:, None] - objective).flatten()
        extra = (spent - spent[rows, choice][:, None]).flatten()
        gains, extras = gain[:, None] + gain, extra[:, None] + extra
        allowed = (same[:, None] != same) & (extras <= limit - _total(spent, choice)) & gains.isfinite()
        gains = gains.masked_fill(~allowed, -torch.inf)
        if heads < 2 or not gains.max() > 1e-12:
            break
        for exchange in divmod(int(gains.argmax()), heads * candidates):
            row, candidate = divmod(exchange, candidates)
            choice[row] = candidate
    return choice
