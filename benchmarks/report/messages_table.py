"""The tables of report messages: every reason why a call runs dense, from the constants in `fallback.py`."""

from __future__ import annotations

from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.fallback import Dense

NOWHERE = {fallback.PROFILING}  # Profile Heads names these calls itself


def reasons(meant: bool) -> list[Dense]:
    """Those that follow from settings, plan or times, or all others."""
    every = (value for value in vars(fallback).values() if isinstance(value, Dense) and value not in NOWHERE)
    return [why for why in every if meant == (why.intended or not why.self_attention)]


def reasons_table(meant: bool) -> str:
    """One row for each reason: as counts name it, as a verdict, and the advice."""
    lines = ["| in the counts | as a verdict | advice |", "|---|---|---|"]
    for why in reasons(meant):
        verdict = sentence(why.why) or ("the same" if why.self_attention else "-")
        cells = why.reason, verdict, sentence(why.advice) or "-"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def sentence(text: str) -> str:
    """The text as a sentence; names of inputs stay as they are."""
    first = text.partition(" ")[0]
    return text and (text if "_" in first else text[0].upper() + text[1:]).rstrip(".") + "."
