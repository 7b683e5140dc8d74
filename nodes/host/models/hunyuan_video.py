"""HunyuanVideo 13B and 1.5: text and video in one self-attention, the text first.

13B has double blocks (weights of their own for text and video) and single blocks after them; 1.5 double blocks alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ....kernels.grid import TokenGrid
from ..core import fallback
from ..core.fallback import Dense
from .family import Blocks, Family, Inputs, class_refusal, patch_refusal, tokens_along, video_shape

_READ = ("double_blocks", "single_blocks", "num_heads", "hidden_size", "patch_size", "txt_in")


def refusal(model: nn.Module) -> Dense | None:
    """The class also serves images, whose patches have two axes, and is the base of others."""
    why = class_refusal(model, "HunyuanVideo", "HunyuanVideo", ("HunyuanVideo",), _READ)
    return why or patch_refusal("HunyuanVideo", model.patch_size, (1, 2, 2), (1, 1, 1))


def shape(model: nn.Module) -> tuple[int, int, int]:
    """(layers, heads, head_dim); single blocks are numbered after the double ones."""
    layers = len(model.double_blocks) + len(model.single_blocks)
    return layers, int(model.num_heads), int(model.hidden_size) // int(model.num_heads)


def blocks(model: nn.Module) -> Blocks:
    """Double blocks, then single blocks, whose own numbers begin at 0 again."""
    return ("double_block", len(model.double_blocks)), ("single_block", len(model.single_blocks))


def outside(model: nn.Module) -> Dense:
    """The token refiner attends the text alone, before the first block."""
    return fallback.REFINER


def token_grid(model: nn.Module, inputs: Inputs) -> TokenGrid | Dense:
    """[image text | glyph text | prompt | reference image | video, width fastest].

    The text is as long as the prompt: another length for each, and for cond and uncond.
    """
    x, context = video_shape(inputs["x"]), inputs.get("context")
    if isinstance(x, Dense):
        return x
    if context is None:
        return fallback.NO_TEXT
    prefix = context.shape[1]
    glyphs, image, reference = (inputs.get(name) for name in ("txt_byt5", "clip_fea", "ref_latent"))
    if glyphs is not None and getattr(model, "byt5_in", None) is not None:
        prefix = prefix + glyphs.shape[1]
    if image is not None:
        prefix = prefix + image.shape[1]
    if reference is not None:
        frames, height, width = _tokens(model, tuple(reference.shape))
        prefix = prefix + frames * height * width
    return TokenGrid(*_tokens(model, x), prefix, 0)


def _tokens(model: nn.Module, latents: tuple[int, ...]) -> tuple[int, int, int]:
    frames, height, width = (
        tokens_along(size, patch) for size, patch in zip(latents[2:], model.patch_size, strict=True)
    )
    return frames, height, width


def output(model: nn.Module, layer: int) -> Callable[[Tensor], Tensor]:
    """Double blocks: the video's projection. Single blocks: attention comes first in what `linear2` takes."""
    doubles = len(model.double_blocks)
    if layer < doubles:
        return model.double_blocks[layer].img_attn.proj
    return partial(_single_output, model.single_blocks[layer - doubles])


def _single_output(block: nn.Module, x: Tensor) -> Tensor:
    return block.linear2(torch.cat([x, x.new_zeros(*x.shape[:-1], block.mlp_hidden_dim)], -1))


HUNYUAN_VIDEO = Family(
    name="hunyuan_video",
    arguments=(
        *("x", "timestep", "context", "y", "txt_byt5", "clip_fea", "guidance", "attention_mask"),
        *("guiding_frame_index", "ref_latent", "disable_time_r", "control", "transformer_options"),
    ),
    refusal=refusal,
    shape=shape,
    blocks=blocks,
    outside=outside,
    token_grid=token_grid,
    output=output,
    unquantized=r"(double_blocks\.\d+\.img_attn|single_blocks\.\d+)\.norm\.(query|key)_norm\.(weight|scale)",
)
