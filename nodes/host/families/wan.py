"""Wan 2.1 and 2.2: text in cross-attention, the video alone in self-attention, references before or after it.

VACE runs blocks of its own beside the main ones under the same block numbers. The main ones are as many as the plain
model's, whose plans fit them; a plan says nothing of the others, so these stay dense.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..reports import reasons
from .family import (
    Blocks,
    Family,
    Inputs,
    Layout,
    Model,
    class_names,
    class_refusal,
    patch_refusal,
    tokens_along,
    video_shape,
)

PLAIN = ("WanModel", "VaceWanModel", "CameraWanModel")
"""Classes whose self-attention sequences are the plain model's."""


def refusal(model: nn.Module) -> str | None:
    """Other Wans (Animate, S2V, SCAIL, HuMo, causal ...) have sequences or calls of their own."""
    why = class_refusal(model, "Wan", "WanModel", PLAIN, ("blocks", "num_heads", "dim", "patch_size"))
    return why or patch_refusal("Wan", model.patch_size, (1, 2, 2))


def shape(model: nn.Module) -> tuple[int, int, int]:
    """(layers, heads, head_dim); VACE's own blocks are not layers."""
    return len(model.blocks), int(model.num_heads), int(model.dim) // int(model.num_heads)


def blocks(model: nn.Module) -> Blocks:
    """One section; Wan calls its blocks double blocks."""
    return (("double_block", len(model.blocks)),)


def outside(model: nn.Module) -> str:
    """VACE's own blocks are called outside of the main ones."""
    return reasons.VACE_BLOCK if class_names(model)[0] == "VaceWanModel" else reasons.NO_LAYER


def layout(model: nn.Module, inputs: Inputs) -> Layout | str:
    """[reference image | video, width fastest | context latents]; latents are padded up to whole patches."""
    x = video_shape(inputs["x"])
    if isinstance(x, str):
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
            return f"a reference latent of {reference.ndim} axes instead of 4"
        prefix = (reference.shape[2] // 2) * (reference.shape[3] // 2)
    for latent in inputs.get("context_latents") or ():
        suffix = suffix + latent.shape[-3] * tokens_along(latent.shape[-2], 2) * tokens_along(latent.shape[-1], 2)
    return frames, height, width, prefix, suffix


def _multitalk(inputs: Inputs) -> str | None:
    """MultiTalk and InfiniteTalk read queries and keys of self-attention in patches of their own."""
    patches = (inputs.get("transformer_options") or {}).get("patches") or {}
    for patch in [*patches.get("attn1_patch", ()), *patches.get("attn2_patch", ())]:
        if type(patch).__name__.startswith("MultiTalk"):
            return f"{type(patch).__name__} works on the attention, in a way the pack does not know"
    return None


def output(model: nn.Module, layer: int) -> Callable[[Tensor], Tensor]:
    """The layer `o` of a block's self-attention."""
    return model.blocks[layer].self_attn.o


WAN = Family(
    name="wan",
    models=(
        Model("Wan 2.1 1.3B", "30", 12, 128, tested=("wan2.1 t2v", "wan, text as long as the video")),
        Model(
            *("Wan 2.1 14B, text or image to video", "40", 40, 128),
            tested=("wan2.1 t2v", "wan2.1 i2v"),
            not_run="first and last frame",
        ),
        Model(
            *("Wan 2.2 14B, high and low noise", "40", 40, 128),
            tested=("wan2.1 t2v", "wan2.2 i2v, no clip vision"),
        ),
        Model("Wan 2.2 5B", "30", 24, 128, tested=("wan2.2 5b",), not_run="image to video, by times per frame"),
        Model(
            *("Wan 2.1 VACE 1.3B / 14B (main blocks)", "30 / 40", "12 / 40", 128),
            tested=("wan vace", "wan vace, two contexts", "wan vace, text as long as the video"),
        ),
        Model(
            *("Wan 2.1 and 2.2 Fun Control, Camera, Phantom, in-context references", "30 / 40", "12 to 40", 128),
            tested=(
                *("wan2.1 fun control", "wan fun control, reference image", "wan2.1 camera", "wan2.2 camera"),
                *("wan phantom", "wan context latents"),
            ),
            not_run="Wan 2.2 Fun Control's own channels",
        ),
    ),
    patch="1x2x2",
    order="reference image, video, context latents",
    text="none, it is in cross-attention",
    not_ours="cross-attention, VACE's own blocks",
    arguments=("x", "timestep", "context", "clip_fea", "time_dim_concat", "transformer_options"),
    refusal=refusal,
    shape=shape,
    blocks=blocks,
    outside=outside,
    layout=layout,
    output=output,
    unquantized=r"blocks\.\d+\.(modulation|self_attn\.norm_q\.weight)",
)
