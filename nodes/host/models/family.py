"""What the pack has to know of a model family: one `Family` says all of it.

Models are recognised by structure, without importing them, so that these files also work without ComfyUI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ....kernels.grid import TokenGrid
from ..core import fallback
from ..core.fallback import Dense

Inputs = Mapping[str, object]
"""Arguments of a model's forward by name; token grids read shapes alone, so tensors may be `meta`."""

Blocks = tuple[tuple[str, int], ...]
"""Sections of blocks in the order they run: the name ComfyUI knows their replacements by, and how many there are."""

UNNAMED = "counted"
"""Section of blocks that ComfyUI gives no name: their calls are counted."""


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: as plans call it.
        arguments: positional arguments of the model's forward, as ComfyUI hands them to wrappers.
        refusal: why a diffusion model is not of it, None when it is.
        shape: (layers, heads, head_dim) of a diffusion model.
        blocks: its sections of blocks; layers are numbered through them.
        outside: why a call outside of these blocks stays dense.
        token_grid: how tokens lie in a forward, or why that is unknown; from shapes alone, as it may be traced by a
            compiler.
        output: what takes all heads' outputs (.., H*D) of a layer through W_O.
        unquantized: pattern of the names of small tensors of the blocks that quantised copies of a model keep as they
            are: what `fingerprint.py` tells models by.
    """

    name: str
    arguments: tuple[str, ...]
    refusal: Callable[[nn.Module], Dense | None]
    shape: Callable[[nn.Module], tuple[int, int, int]]
    blocks: Callable[[nn.Module], Blocks]
    outside: Callable[[nn.Module], Dense]
    token_grid: Callable[[nn.Module, Inputs], TokenGrid | Dense]
    output: Callable[[nn.Module, int], Callable[[Tensor], Tensor]]
    unquantized: str


def class_names(model: nn.Module) -> list[str]:
    """Names of a model's class and its bases, the class first."""
    return [cls.__name__ for cls in type(model).__mro__]


def class_refusal(model: nn.Module, title: str, base: str, known: Sequence[str], read: Sequence[str]) -> Dense | None:
    """Why a model is not of a family, by its class and attributes; None when it is.

    Args:
        title: the family in words.
        base: class that all models of the family are, or come from.
        known: classes that the pack knows.
        read: attributes that the pack reads; the first one holds blocks.
    """
    names = class_names(model)
    if base not in names:
        return fallback.no_family(names[0])
    if names[0] not in known:
        return Dense(f"{names[0]} is a variant of {title} that the pack does not know")
    absent = [name for name in read if not hasattr(model, name)]
    if absent:
        return Dense(f"{names[0]} without {', '.join(absent)}, which the pack reads")
    return None if len(getattr(model, read[0])) else Dense(f"{names[0]} without {read[0]}")


def patch_refusal(title: str, patch: Sequence[int], *known: tuple[int, ...]) -> Dense | None:
    """Why patches are not the family's, None when they are."""
    if tuple(patch) in known:
        return None
    return Dense(f"{title} with patches of {tuple(patch)} instead of {' or '.join(map(str, known))}")


def video_shape(x: object) -> tuple[int, ...] | Dense:
    """(batch, channels, frames, height, width) of video latents, or why they are none."""
    shape = tuple(getattr(x, "shape", ()))
    return shape if len(shape) == 5 else Dense(f"latents of {len(shape)} axes instead of 5")


def tokens_along(size: int, patch: int) -> int:
    """Tokens along an axis of latents that is padded up to whole patches."""
    return -(-size // patch)
