"""How far a sparse video will be from the dense one, estimated from the error that the search of its plan predicted."""

from __future__ import annotations

import math

from ..plan.plan import Plan

# PSNR in dB over log10 of the predicted error, and the standard deviation of single videos around that line. From the
# small Wan, benchmarks/quality/expected_distance.py. On real models it was not measured.
SLOPE, AT_ONE, SPREAD = -19.36, 5.81, 1.93
MEASURED = 0.0071, 0.175  # predicted errors of its plans, the lowest and the highest; others count as the nearer one
SMALL_MODEL = "estimated with a small model"

WORDS = (
    (35.0, "hard to tell from the dense video"),
    (30.0, "fine details differ from the dense video"),
    (25.0, "details differ from the dense video"),
    (-math.inf, "parts of the picture differ from the dense video"),
)
"""What a PSNR to the dense video looks like: from how many dB on, and the words."""

SAME_ATTENTION = 30.7
"""PSNR in dB between two videos of MiniMax H3 whose kernels computed the same attention, all of it (README of
github.com/quzopl/ComfyUI-SolAttn-H3, commit 0d40baa)."""


def expected_psnr(plan: Plan) -> float | None:
    """PSNR to the dense video in dB, None for a plan whose search predicted no error."""
    error = plan.provenance.parameters.get("predicted_error")
    if not isinstance(error, int | float) or error < 0:
        return None
    low, high = MEASURED
    return SLOPE * math.log10(min(max(error, low), high)) + AT_ONE


def expected_distance(plan: Plan) -> str:
    """The same in words with its range of two standard deviations; empty where nothing is known."""
    psnr, error = expected_psnr(plan), plan.provenance.parameters.get("predicted_error")
    if psnr is None or not isinstance(error, int | float):
        return ""
    low, high = f"{psnr - 2 * SPREAD:.0f}", f"{psnr + 2 * SPREAD:.0f}"
    span = f"{low} dB or more" if error < MEASURED[0] else f"{high} dB or less" if error > MEASURED[1] else ""
    return f"Expected: {in_words(psnr)}, {span or f'{low} to {high} dB'} ({SMALL_MODEL})"


def in_words(psnr: float) -> str:
    """What a PSNR in dB to the dense video looks like."""
    return next(words for least, words in WORDS if psnr >= least)


def beside_same_attention(psnr: float) -> str:
    """A PSNR in dB beside that of another kernel which leaves nothing out."""
    how = "more" if psnr >= SAME_ATTENTION else "less"
    return f"That is {how} than two exact kernels had, which round differently: {SAME_ATTENTION} dB (MiniMax H3)"
