"""The models the pack knows: how to tell them, and where their tokens, heads and output matrices are.

Models are told by structure, without importing them, so that this file also works without ComfyUI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

Layout = tuple[int, int, int, int, int]
"""frames, height, width in tokens, then tokens before and after the video: what TokenGrid takes."""


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: as plans call it.
        refusal: why a diffusion model is none of it, None when it is.
        shape: (layers, heads, head_dim) of a diffusion model.
        layout: token layout of a forward, or why it is unknown; from shapes alone, as it may be traced by a compiler.
        output_layer: the layer after self-attention, which holds W_O of all heads.
    """

    name: str
    refusal: Callable[[nn.Module], str | None]
    shape: Callable[[nn.Module], tuple[int, int, int]]
    layout: Callable[[nn.Module, tuple[int, ...], Mapping], Layout | str]
    output_layer: Callable[[nn.Module, int], nn.Module]


def _wan_refusal(model: nn.Module) -> str | None:
    names = [cls.__name__ for cls in type(model).__mro__]
    if "WanModel" not in names:
        return f"{names[0]} is no model the pack knows (Wan 2.1 and 2.2, text or image to video)"
    if names[0] != "WanModel":
        return f"{names[0]} is a variant of Wan with attention of its own (only plain Wan 2.1 and 2.2 run sparse)"
    if tuple(getattr(model, "patch_size", ())) != (1, 2, 2):
        return f"a Wan with patches of {getattr(model, 'patch_size', None)} instead of (1, 2, 2)"
    if not all(hasattr(model, name) for name in ("blocks", "num_heads", "dim")) or not len(model.blocks):
        return "a Wan whose blocks are not where the pack looks for them"
    return None


def _wan_shape(model: nn.Module) -> tuple[int, int, int]:
    return len(model.blocks), int(model.num_heads), int(model.dim) // int(model.num_heads)


def _wan_layout(model: nn.Module, shape: tuple[int, ...], extra: Mapping) -> Layout | str:
    """Wan: [reference image | video, width fastest | context latents]; latents are padded up to whole patches."""
    if len(shape) != 5:
        return f"latents of {len(shape)} axes instead of 5"
    frames, height, width = shape[2], -(-shape[3] // 2), -(-shape[4] // 2)
    added = extra.get("time_dim_concat")
    if added is not None:  # Phantom: reference frames after the video's, part of its grid
        frames = frames + added.shape[2]
    prefix = suffix = 0
    reference = extra.get("reference_latent")
    if reference is not None and getattr(model, "ref_conv", None) is not None:
        if reference.ndim != 4:
            return f"a reference latent of {reference.ndim} axes instead of 4"
        prefix = (reference.shape[2] // 2) * (reference.shape[3] // 2)
    for latent in extra.get("context_latents") or ():
        suffix = suffix + latent.shape[-3] * -(-latent.shape[-2] // 2) * -(-latent.shape[-1] // 2)
    return frames, height, width, prefix, suffix


def _wan_output_layer(model: nn.Module, layer: int) -> nn.Module:
    return model.blocks[layer].self_attn.o


WAN = Family("wan", _wan_refusal, _wan_shape, _wan_layout, _wan_output_layer)
FAMILIES = (WAN,)


def detect(model: nn.Module) -> tuple[Family | None, str | None]:
    """Family of a diffusion model, or None and why."""
    reasons = []
    for family in FAMILIES:
        reason = family.refusal(model)
        if reason is None:
            return family, None
        reasons.append(reason)
    return None, reasons[0]


def describe(model: nn.Module, family: Family) -> str:
    """Model in words, for profiles: `wan, 30 layers of 12 heads x 128`."""
    layers, heads, head_dim = family.shape(model)
    return f"{family.name}, {layers} layers of {heads} heads x {head_dim}"
