"""The model families the pack knows, one file each: how their tokens lie in attention."""

from __future__ import annotations

from torch import nn

from ....kernels.grid import TokenGrid
from ..core import fallback
from ..core.fallback import Dense
from .cogvideox import COGVIDEOX
from .family import UNNAMED, Family, Inputs, class_names
from .hunyuan_video import HUNYUAN_VIDEO
from .ltx import LTX
from .minimax_h3 import MINIMAX_H3
from .wan import WAN

__all__ = ["COGVIDEOX", "FAMILIES", "HUNYUAN_VIDEO", "LTX", "MINIMAX_H3", "UNNAMED", "WAN", "Family", "Inputs"]

FAMILIES = (WAN, HUNYUAN_VIDEO, COGVIDEOX, MINIMAX_H3, LTX)


def detect(model: nn.Module) -> Family | Dense:
    """Family of a diffusion model, or why it is of none."""
    why = unknown = fallback.no_family(class_names(model)[0])
    for family in FAMILIES:
        refusal = family.refusal(model)
        if refusal is None:
            return family
        if refusal != unknown:  # of this family, but not as the pack knows it
            why = refusal
    return why


def token_grid(model: nn.Module, family: Family, inputs: Inputs) -> TokenGrid | Dense:
    """How tokens lie in a forward, or why that is unknown, as where arguments are of a form that nobody expected."""
    try:
        return family.token_grid(model, inputs)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        return Dense(f"arguments of this forward are not as the pack knows them ({type(error).__name__}: {error})")


def describe(model: nn.Module, family: Family) -> str:
    """Model in words, for profiles: `wan, 30 layers of 12 heads x 128`."""
    layers, heads, head_dim = family.shape(model)
    return f"{family.name}, {layers} layers of {heads} heads x {head_dim}"
