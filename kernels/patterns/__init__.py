"""The patterns of Sparse-vDiT (arXiv 2506.03065, section on modes) and routing, one file each."""

from __future__ import annotations

import dataclasses

from .base import Pattern
from .dense import Dense
from .diagonal import Diagonal
from .multi_diagonal import MultiDiagonal
from .routed import Routed
from .skip import Skip
from .union import MAX_PARTS, Union
from .vertical_stripe import VerticalStripe

PATTERNS: dict[str, type[Pattern]] = {
    cls.kind: cls for cls in (Dense, Skip, Diagonal, MultiDiagonal, VerticalStripe, Union, Routed)
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
    missing = names - given - PATTERNS[kind].added
    if missing:
        raise ValueError(f"{kind} lacks its parameter {sorted(missing)[0]!r}")
    values = {name: data[name] for name in given}
    if kind == Union.kind:
        values["parts"] = _parts(values["parts"])
    return PATTERNS[kind](**values)


def _parts(data: object) -> tuple[Pattern, ...]:
    """A union's parts; unions in unions are refused before they are read, however deep they are nested."""
    if not isinstance(data, list) or len(data) > MAX_PARTS:
        raise ValueError(f"parts is {str(data)[:80]!r}, expected a list of 2 to {MAX_PARTS} patterns")
    for number, part in enumerate(data):
        if isinstance(part, dict) and part.get("kind") == Union.kind:
            raise ValueError(f"parts[{number}] is a union itself, expected a window or a stripe")
    return tuple(pattern_from_dict(part) for part in data)


__all__ = [
    "PATTERNS",
    "Dense",
    "Diagonal",
    "MultiDiagonal",
    "Pattern",
    "Routed",
    "Skip",
    "Union",
    "VerticalStripe",
    "pattern_from_dict",
]
