"""The patterns of Sparse-vDiT (arXiv 2506.03065, section on modes) and routing, one file each."""

from __future__ import annotations

import dataclasses

from .base import Pattern
from .dense import Dense
from .diagonal import Diagonal
from .multi_diagonal import MultiDiagonal
from .routed import Routed
from .skip import Skip
from .vertical_stripe import VerticalStripe

PATTERNS: dict[str, type[Pattern]] = {
    cls.kind: cls for cls in (Dense, Skip, Diagonal, MultiDiagonal, VerticalStripe, Routed)
}


def pattern_from_dict(data: object) -> Pattern:
    """Pattern from its JSON form (`Pattern.to_dict`).

    Raises:
        ValueError: not an object, an unknown kind, a missing or unknown parameter, or a value out of range.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{data!r} is no pattern, expected an object with a kind")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in PATTERNS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(PATTERNS)}")
    names = {field.name for field in dataclasses.fields(PATTERNS[kind])}
    given = data.keys() - {"kind"}
    if given - names:
        raise ValueError(f"{kind} has no parameter {sorted(given - names)[0]!r}, it has {', '.join(sorted(names))}")
    if names - given:
        raise ValueError(f"{kind} lacks its parameter {sorted(names - given)[0]!r}")
    return PATTERNS[kind](**{name: data[name] for name in given})


__all__ = [
    "PATTERNS",
    "Dense",
    "Diagonal",
    "MultiDiagonal",
    "Pattern",
    "Routed",
    "Skip",
    "VerticalStripe",
    "pattern_from_dict",
]
