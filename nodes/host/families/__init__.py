"""The model families the pack knows, one file each."""

from __future__ import annotations

from torch import nn

from .. import reasons
from .cogvideox import COGVIDEOX
from .family import COUNTED, Blocks, Family, Inputs, Layout, Model, class_names
from .hunyuan_video import HUNYUAN_VIDEO
from .ltx import LTX
from .minimax_h3 import MINIMAX_H3
from .wan import WAN

__all__ = [
    "COGVIDEOX",
    "COUNTED",
    "FAMILIES",
    "HUNYUAN_VIDEO",
    "LTX",
    "MINIMAX_H3",
    "WAN",
    "Blocks",
    "Family",
    "Inputs",
    "Layout",
    "Model",
    "describe",
    "detect",
]

FAMILIES = (WAN, HUNYUAN_VIDEO, COGVIDEOX, MINIMAX_H3, LTX)


def detect(model: nn.Module) -> tuple[Family | None, str | None]:
    """Family of a diffusion model, or None and why."""
    why = unknown = reasons.no_family(class_names(model)[0])
    for family in FAMILIES:
        reason = family.refusal(model)
        if reason is None:
            return family, None
        if reason != unknown:  # of this family, but not as the pack knows it
            why = reason
    return None, why


def describe(model: nn.Module, family: Family) -> str:
    """Model in words, for profiles: `wan, 30 layers of 12 heads x 128`."""
    layers, heads, head_dim = family.shape(model)
    return f"{family.name}, {layers} layers of {heads} heads x {head_dim}"
