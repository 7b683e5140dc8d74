"""Errors of sparse kernels: which of them a run survives, and what they mean in words."""

from __future__ import annotations

import logging

from ....kernels.memory import out_of_memory
from ..reports import reasons

LOG = logging.getLogger("sparse_vdit")
MOST_CHARACTERS = 300


def passes_through(error: BaseException) -> bool:
    """Whether an error is none of a kernel's: the user's interrupt, which is an ordinary exception in some ComfyUIs."""
    return any(cls.__name__ == "InterruptProcessingException" for cls in type(error).__mro__)


def calibration_failure(error: Exception) -> str:
    """An error of calibration in words; it costs the plan, and never the video. What passes through is raised."""
    if passes_through(error):
        raise error
    LOG.warning("Sparse-vDiT: calibration failed", exc_info=error)
    return f"calibration failed ({type(error).__name__}: {error})"[:MOST_CHARACTERS]


def failure_text(error: Exception) -> tuple[str, str]:
    """Reason of the dense calls that follow an error, and the error in words."""
    lines = str(error).strip().splitlines() or ["no message"]
    text = f"{type(error).__name__}: {lines[0]}"[:MOST_CHARACTERS]
    if out_of_memory(error):
        return reasons.OUT_OF_MEMORY, f"memory ran out in sparse attention ({text})"
    if type(error).__name__ == "OutOfResources":  # Triton's, of shared memory or registers
        return reasons.KERNEL_FAILED, f"the sparse kernel needs more than this card has ({text})"
    return reasons.KERNEL_FAILED, f"the sparse kernel failed ({text})"
