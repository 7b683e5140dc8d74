"""How a lack of memory shows, and how much is free."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a device or on the host, as torch, the CUDA driver or Python report it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
