"""How much memory a device has left, as ComfyUI counts it."""

from __future__ import annotations

import sys

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes; None without ComfyUI. The driver's own number leaves out weights that ComfyUI gives up where memory is
    wanted, and what PyTorch holds for later."""
    management = sys.modules.get("comfy.model_management")
    return None if management is None else int(management.get_free_memory(device))
