"""Attention as ComfyUI's models call it, for tests without ComfyUI."""

from __future__ import annotations

import torch


def model_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, **kwargs: object) -> torch.Tensor:
    """ComfyUI's signature: (B, S, H*D) in and out."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
