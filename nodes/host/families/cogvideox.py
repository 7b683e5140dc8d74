"""CogVideoX 2B, 5B and 1.5: text and video in one self-attention, the text first, heads of 64.

ComfyUI says nowhere which block is at work and lets none be replaced, so calls are counted: each block makes one.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..reports import reasons
from .family import COUNTED, Blocks, Family, Inputs, Layout, Model, class_refusal, tokens_along, video_shape

CLASS = "CogVideoXTransformer3DModel"
_READ = ("blocks", "num_attention_heads", "attention_head_dim", "patch_size", "patch_size_t")


def refusal(model: nn.Module) -> str | None:
    """By class and by what the layout reads."""
    return class_refusal(model, "CogVideoX", CLASS, (CLASS,), _READ)


def shape(model: nn.Module) -> tuple[int, int, int]:
    """(layers, heads, head_dim)."""
    return len(model.blocks), int(model.num_attention_heads), int(model.attention_head_dim)


def blocks(model: nn.Module) -> Blocks:
    """One section, told by counting."""
    return ((COUNTED, len(model.blocks)),)


def outside(model: nn.Module) -> str:
    """More calls than blocks."""
    return reasons.NO_LAYER


def layout(model: nn.Module, inputs: Inputs) -> Layout | str:
    """[text, 226 tokens or more | video, width fastest]; latents are padded up to whole patches, 1.5 also in time."""
    x, context = video_shape(inputs["x"]), inputs.get("context")
    if isinstance(x, str):
        return x
    if context is None:
        return reasons.NO_TEXT
    size, depth = model.patch_size, model.patch_size_t or 1
    return tokens_along(x[2], depth), tokens_along(x[3], size), tokens_along(x[4], size), context.shape[1], 0


def output(model: nn.Module, layer: int) -> Callable[[Tensor], Tensor]:
    """The layer after a block's attention."""
    return model.blocks[layer].attn_out


COGVIDEOX = Family(
    name="cogvideox",
    models=(
        Model(
            *("CogVideoX 2B", "30", 30, 64),
            tested=("cogvideox, learned positions",),
            not_run="files without saved positions, which ComfyUI gives rotary ones",
        ),
        Model(
            *("CogVideoX 5B, text or image to video", "42", 48, 64),
            tested=("cogvideox", "cogvideox, texts in one batch", "cogvideox i2v"),
        ),
        Model(
            *("CogVideoX 1.5 5B, text or image to video", "42", 48, 64, "2x2x2"),
            tested=("cogvideox 1.5, odd frames", "cogvideox 1.5 i2v"),
        ),
    ),
    patch="1x2x2",
    order="text, video",
    text="before the video, 226 tokens or more",
    not_ours="none",
    arguments=("x", "timestep", "context", "ofs", "transformer_options"),
    refusal=refusal,
    shape=shape,
    blocks=blocks,
    outside=outside,
    layout=layout,
    output=output,
    unquantized=r"blocks\.\d+\.(norm_q\.weight|norm1\.norm\.weight)",
)
