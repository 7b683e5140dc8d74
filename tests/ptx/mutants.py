"""Changes of a kernel's text, which the machine has to notice."""

from __future__ import annotations

import re
from collections.abc import Callable

Mutant = Callable[[str], str]


def swap(pattern: str, by: str, number: int | None = 0) -> Mutant:
    """A mutant that replaces the match of this number, or all of them. Raises where nothing matches."""

    def mutant(text: str) -> str:
        found = [*re.finditer(pattern, text, re.M)]
        if not found:
            raise LookupError(f"nothing to change: {pattern}")
        for match in reversed(found if number is None else [found[number]]):
            text = text[: match.start()] + match.expand(by) + text[match.end() :]
        return text

    return mutant


def halfway(pattern: str, by: str) -> Mutant:
    """A mutant that replaces the match in the middle: in the main loop, where most of the code is."""
    return lambda text: swap(pattern, by, len(re.findall(pattern, text, re.M)) // 2)(text)
