"""Wan 2.1 and 2.2: text in cross-attention, the video alone in self-attention, references before or after it.

VACE runs blocks of its own beside the main ones under the same block numbers. The main ones are as many as the plain
model's, whose plans fit them; a plan says nothing of the others, so these stay dense.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ....kernels.grid import TokenGrid
from ..core import fallback
from ..core.fallback import Dense
from .family import (
    Blocks,
    Family,
    Inputs,
    class_names,
    class_refusal,
    patch_refusal,
    tokens_along,
    video_shape,
)

PLAIN = ("WanModel", "VaceWanModel", "CameraWanModel")
"""Classes whose self-attention sequences are the plain model's."""


def refusal(model: nn.Module) -> Dense | None:
    """Other Wans (Animate, S2V, SCAIL, HuMo, causal ...) have sequences or calls of their own."""
    why = class_refusal(model, "Wan", "WanModel", PLAIN, ("blocks", "num_heads", "dim", "patch_size"))
    return why or patch_refusal("Wan", model.patch_size, (1, 2, 2))


def shape(model: nn.Module) -> tuple[int, int, int]:
    """(layers, heads, head_dim); VACE's own blocks are not layers."""
    return len(model.blocks), int(model.num_heads), int(model.dim) // int(model.num_heads)


def blocks(model: nn.Module) -> Blocks:
    """One section; Wan calls its blocks double blocks."""
    return (("double_block", len(model.blocks)),)


def outside(model: nn.Module) -> Dense:
    """VACE's own blocks are called outside of the main ones."""
    return fallback.VACE_BLOCK if class_names(model)[0] == "VaceWanModel" else fallback.NO_LAYER


def token_grid(model: nn.Module, inputs: Inputs) -> TokenGrid | Dense:
    """[reference image | video, width fastest | context latents]; latents are padded up to whole patches."""
    x = video_shape(inputs["x"])
    if isinstance(x, Dense):
        return x
    talking = _multitalk(inputs)
    if talking is not None:
        return talking
    frames, height, width = x[2], tokens_along(x[3], 2), tokens_along(x[4], 2)
    added = inputs.get("time_dim_concat")
    if added is not None:  # Phantom: reference frames after the video's, part of its grid
        frames = frames + added.shape[2]
    prefix = suffix = 0
    reference = inputs.get("reference_latent")
    if reference is not None and getattr(model, "ref_conv", None) is not None:  # Fun-control
        if reference.ndim != 4:
            return Dense(f"a reference latent of {reference.ndim} axes instead of 4")
        prefix = (reference.shape[2] // 2) * (reference.shape[3] // 2)
    for latent in inputs.get("context_latents") or ():
        suffix = suffix + latent.shape[-3] * tokens_along(latent.shape[-2], 2) * tokens_along(latent.shape[-1], 2)
    return TokenGrid(frames, height, width, prefix, suffix)


def _multitalk(inputs: Inputs) -> Dense | None:
    """MultiTalk and InfiniteTalk read queries and keys of self-attention in patches of their own."""
    patches = (inputs.get("transformer_options") or {}).get("patches") or {}
    for patch in [*patches.get("attn1_patch", ()), *patches.get("attn2_patch", ())]:
        if type(patch).__name__.startswith("MultiTalk"):
            return Dense(f"{type(patch).__name__} works on the attention, in a way the pack does not know")
    return None


def output(model: nn.Module, layer: int) -> Callable[[Tensor], Tensor]:
    """The layer `o` of a block's self-attention."""
    return model.blocks[layer].self_attn.o


WAN = Family(
    name="wan",
    arguments=("x", "timestep", "context", "clip_fea", "time_dim_concat", "transformer_options"),
    refusal=refusal,
    shape=shape,
    blocks=blocks,
    outside=outside,
    token_grid=token_grid,
    output=output,
    unquantized=r"blocks\.\d+\.(modulation|self_attn\.norm_q\.weight)",
)
