"""Layers and kinds of patterns that a user keeps dense, whatever a plan says: the one edit that people need."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ...kernels.patterns import PATTERNS, Dense
from ..plan.plan import MAX_LAYERS, Band, Plan
from .cost import head_costs

KINDS = tuple(kind for kind in PATTERNS if kind != Dense.kind)
STALE = ("mean_density", "predicted_error", "predicted_error_margin")
"""What a plan says of itself that no longer holds once heads of it are dense."""

MAX_CHARACTERS = 4000  # every second layer of the largest plan
_LAYERS = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?")


@dataclass(frozen=True)
class KeptDense:
    """What is kept dense: numbers of layers, and kinds of patterns."""

    layers: frozenset[int] = frozenset()
    kinds: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.layers or self.kinds)

    def __str__(self) -> str:
        """The text that `kept_dense` reads: `0, 3-5, skip`."""
        return ", ".join([*_ranges(sorted(self.layers)), *(kind for kind in KINDS if kind in self.kinds)])


NOTHING_KEPT = KeptDense()


def kept_dense(text: str) -> KeptDense:
    """Layers and kinds out of a text like `0, 3-5, skip`; an empty one keeps nothing.

    Raises:
        ValueError: something that is neither.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"keep_dense: {len(text)} characters are too many, expected at most {MAX_CHARACTERS}")
    layers: set[int] = set()
    kinds: set[str] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        found = _LAYERS.fullmatch(word)
        if found is None and word not in KINDS:
            raise ValueError(
                f"keep_dense: {word[:80]!r} is neither a layer (3), layers (3-5) nor a kind of pattern "
                f"({', '.join(KINDS)}); separate them by commas"
            )
        if found is None:
            kinds.add(word)
            continue
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < MAX_LAYERS:
            raise ValueError(f"keep_dense: {word!r} is no range of layers, expected numbers from 0, the lower first")
        layers.update(range(first, last + 1))
    return KeptDense(frozenset(layers), frozenset(kinds))


def missing_layers(layers: int, kept: KeptDense) -> str | None:
    """Why a model of so many layers cannot keep these dense, because it lacks some of them; None where it can."""
    beyond = sorted(layer for layer in kept.layers if layer >= layers)
    if not beyond:
        return None
    names = f"layers {', '.join(_ranges(beyond))}" if len(beyond) > 1 else f"layer {beyond[0]}"
    return f"keep_dense: {names} cannot be kept dense, the model has the layers 0 to {layers - 1}; name those alone"


def with_dense(plan: Plan, kept: KeptDense) -> Plan:
    """The plan with dense heads where they are to be kept so; the same one where nothing is.

    Raises:
        ValueError: a layer that the plan does not have.
    """
    if not kept:
        return plan
    why = missing_layers(plan.layers, kept)
    if why is not None:
        raise ValueError(why)
    dense = plan.patterns.index(Dense()) if Dense() in plan.patterns else len(plan.patterns)
    kept_numbers = {number for number, pattern in enumerate(plan.patterns) if pattern.kind in kept.kinds}
    tables = [
        [[dense if layer in kept.layers or number in kept_numbers else number for number in row]
         for layer, row in enumerate(band.heads)]
        for band in plan.bands
    ]  # fmt: skip
    used = sorted({number for table in tables for row in table for number in row})
    new = {number: place for place, number in enumerate(used)}
    bands = tuple(
        Band(band.sigma_high, band.sigma_low, tuple(tuple(new[number] for number in row) for row in table))
        for band, table in zip(plan.bands, tables, strict=True)
    )
    patterns = tuple((*plan.patterns, Dense())[number] for number in used)
    parameters = {name: value for name, value in plan.provenance.parameters.items() if name not in STALE}
    parameters |= {"keep_dense": str(kept), **_scaled(plan, tables)}
    return replace(plan, patterns=patterns, bands=bands, provenance=replace(plan.provenance, parameters=parameters))


def _scaled(plan: Plan, tables: list[list[list[int]]]) -> dict[str, float]:
    """The speed-up that a plan tells, less what the dense heads take back, by counted operations."""
    expected = plan.provenance.parameters.get("attention_speedup")
    if not isinstance(expected, int | float):
        return {}
    costs = head_costs(plan)
    # one more candidate, which costs as much as the model's own attention
    costs = replace(costs, candidates=torch.cat([costs.candidates, costs.candidates.new_tensor([costs.dense])]))
    before, after = torch.tensor([band.heads for band in plan.bands]), torch.tensor(tables)
    return {"attention_speedup": round(expected * costs.speedup(after) / costs.speedup(before), 3)}


def _ranges(numbers: Iterable[int]) -> list[str]:
    """Rising numbers as texts, neighbours joined: 0, 3-5."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return [f"{first}" if first == last else f"{first}-{last}" for first, last in found]
