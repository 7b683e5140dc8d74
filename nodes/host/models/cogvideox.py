"""CogVideoX 2B, 5B and 1.5: text and video in one self-attention, the text first, heads of 64.

ComfyUI says nowhere which block is at work and lets none be replaced, so calls are counted: each block makes one.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ....kernels.grid import TokenGrid
from ..core import fallback
from ..core.fallback import Dense
from .family import UNNAMED, Blocks, Family, Inputs, class_refusal, tokens_along, video_shape

CLASS = "CogVideoXTransformer3DModel"
_READ = ("blocks", "num_attention_heads", "attention_head_dim", "patch_size", "patch_size_t")


def refusal(model: nn.Module) -> Dense | None:
    """By class and by what the layout reads."""
    return class_refusal(model, "CogVideoX", CLASS, (CLASS,), _READ)


def shape(model: nn.Module) -> tuple[int, int, int]:
    """(layers, heads, head_dim)."""
    return len(model.blocks), int(model.num_attention_heads), int(model.attention_head_dim)


def blocks(model: nn.Module) -> Blocks:
    """One section without a name."""
    return ((UNNAMED, len(model.blocks)),)


def outside(model: nn.Module) -> Dense:
    """More calls than blocks."""
    return fallback.NO_LAYER


def token_grid(model: nn.Module, inputs: Inputs) -> TokenGrid | Dense:
    """[text, 226 tokens or more | video, width fastest]; latents are padded up to whole patches, 1.5 also in time."""
    x, context = video_shape(inputs["x"]), inputs.get("context")
    if isinstance(x, Dense):
        return x
    if context is None:
        return fallback.NO_TEXT
    size, depth = model.patch_size, model.patch_size_t or 1
    frames, height, width = tokens_along(x[2], depth), tokens_along(x[3], size), tokens_along(x[4], size)
    return TokenGrid(frames, height, width, context.shape[1], 0)


def output(model: nn.Module, layer: int) -> Callable[[Tensor], Tensor]:
    """The layer after a block's attention."""
    return model.blocks[layer].attn_out


COGVIDEOX = Family(
    name="cogvideox",
    arguments=("x", "timestep", "context", "ofs", "transformer_options"),
    refusal=refusal,
    shape=shape,
    blocks=blocks,
    outside=outside,
    token_grid=token_grid,
    output=output,
    unquantized=r"blocks\.\d+\.(norm_q\.weight|norm1\.norm\.weight)",
)
