"""MiniMax H3: text, conditions, sound and video in one self-attention; the video is always last."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ....kernels.grid import TokenGrid
from ..core import fallback
from ..core.fallback import Dense
from .family import Blocks, Family, Inputs, class_refusal, patch_refusal, tokens_along, video_shape


def refusal(model: nn.Module) -> Dense | None:
    """By class, patches and what the layout reads."""
    why = class_refusal(model, "MiniMax H3", "MiniMaxH3Model", ("MiniMaxH3Model",), ("blocks", "patch_size"))
    return why or patch_refusal("MiniMax H3", model.patch_size, (1, 2, 2))


def shape(model: nn.Module) -> tuple[int, int, int]:
    """(layers, heads, head_dim)."""
    attention = model.blocks[0].attn
    return len(model.blocks), int(attention.heads), int(attention.head_dim)


def blocks(model: nn.Module) -> Blocks:
    """One section; ComfyUI lets them be replaced as double blocks."""
    return (("double_block", len(model.blocks)),)


def outside(model: nn.Module) -> Dense:
    """The token refiner attends the text alone, before the first block."""
    return fallback.REFINER


def token_grid(model: nn.Module, inputs: Inputs) -> TokenGrid | Dense:
    """[text | keyframes and references, sound and images | sound, both channels | video, width fastest]."""
    x, context = inputs["x"], inputs.get("context")
    if not isinstance(x, (list, tuple)) or len(x) != 2:
        return Dense("latents that are not one video and one sound")
    video = video_shape(x[0])
    if isinstance(video, Dense):
        return video
    if context is None:
        return fallback.NO_TEXT
    payload = inputs.get("minimax_payload") or {}
    prefix = context.shape[1] + 2 * x[1].shape[-1]
    for latent in payload.get("cond_video_latents") or ():
        prefix = prefix + latent.shape[2] * (latent.shape[3] // 2) * (latent.shape[4] // 2)
    for latent in payload.get("cond_audio_latents") or ():
        prefix = prefix + 2 * latent.shape[-1]
    return TokenGrid(video[2], tokens_along(video[3], 2), tokens_along(video[4], 2), prefix, 0)


def output(model: nn.Module, layer: int) -> Callable[[Tensor], Tensor]:
    """The layer after a block's attention."""
    return model.blocks[layer].attn.out_proj


MINIMAX_H3 = Family(
    name="minimax_h3",
    arguments=("x", "timestep", "context", "transformer_options"),
    refusal=refusal,
    shape=shape,
    blocks=blocks,
    outside=outside,
    token_grid=token_grid,
    output=output,
    unquantized=r"blocks\.\d+\.(attn\.q_norm|norm1)\.weight",
)
