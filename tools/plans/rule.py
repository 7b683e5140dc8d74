"""From the part of the keys that a head needs to the share of tiles that a plan gives it.

Measured is d, the part of the keys that holds 95 % of the softmax mass. Whole tiles hold a mass m with a share d ** e
of them; e hangs on m and was fitted on the small Wan (`benchmarks/quality/tile_needs.py`). A plan gives more than that,

    share = times * d ** e + added,

by margins that leave at most 2 % of the heads short of the mass `at_least` where one model's densities are predicted
from another's, or later steps' from earlier ones' (`benchmarks/quality/hold_out.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXPONENTS = {0.8: 0.9798, 0.9: 0.7887, 0.95: 0.6304, 0.98: 0.4709}
"""Of the share of tiles that holds a mass, by the mass."""

MAX_ROUTED = 0.8  # a head that needs more is dense: choosing tiles costs what leaving the others out saves
FINE, COARSE, FINE_UP_TO = 0.02, 0.05, 0.4  # steps of shares, so that a plan has few patterns


@dataclass(frozen=True)
class Rule:
    """A preset's.

    Attributes:
        mass: softmax mass that a head is meant to keep.
        at_least: mass below which a head's plan counts as unsafe.
        times, added: margins.
    """

    mass: float
    at_least: float
    times: float
    added: float

    def needed(self, keys: np.ndarray) -> np.ndarray:
        """Share of tiles that holds the wanted mass, without margins."""
        return keys ** EXPONENTS[self.mass]

    def planned(self, keys: np.ndarray) -> np.ndarray:
        """Share of tiles that a plan gives, at most 1."""
        return np.minimum(1, self.times * self.needed(keys) + self.added)

    def unsafe(self, planned: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Which heads would keep less than they must with planned shares, bool; `keys` are their true densities."""
        return planned < keys ** EXPONENTS[self.at_least]


RULES = {
    "faithful": Rule(0.98, 0.95, 1.05, 0.06),
    "balanced": Rule(0.95, 0.9, 1.1, 0.07),
    "fast": Rule(0.9, 0.8, 1.2, 0.05),
}
"""By preset."""


def stepped(share: float) -> float:
    """The next share upward that plans have, 1 for dense."""
    step = FINE if share <= FINE_UP_TO else COARSE
    up = round(float(np.ceil(round(share / step, 9))) * step, 2)
    return up if up <= MAX_ROUTED else 1.0
