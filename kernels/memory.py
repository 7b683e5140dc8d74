"""How a lack of memory shows."""

from __future__ import annotations

import torch

WORDS = ("out of memory", "out_of_memory", "can't allocate memory", "alloc_failed")
"""Of torch, the CUDA driver, the operating system, and cuBLAS."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a device or on the host, as torch, the CUDA driver or Python report it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in WORDS)
