"""The model families the pack knows, one file each."""

from __future__ import annotations

from torch import nn

from ..reports import reasons
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
    "read_layout",
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


def read_layout(model: nn.Module, family: Family, inputs: Inputs) -> Layout | str:
    """Token layout of a forward, or why it is unknown; arguments of a form nobody expected are such a reason too."""
    try:
        return family.layout(model, inputs)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        return f"arguments of this forward are not as the pack knows them ({type(error).__name__}: {error})"


def describe(model: nn.Module, family: Family) -> str:
    """Model in words, for profiles: `wan, 30 layers of 12 heads x 128`."""
    layers, heads, head_dim = family.shape(model)
    return f"{family.name}, {layers} layers of {heads} heads x {head_dim}"
