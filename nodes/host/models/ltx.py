"""LTX-Video and the video stream of LTX-2: the video alone in self-attention, guides after it; text and sound in
cross-attention.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ....kernels.grid import TokenGrid
from ..core import fallback
from ..core.fallback import Dense
from .family import Blocks, Family, Inputs, class_refusal, patch_refusal, video_shape

CLASSES = ("LTXVModel", "LTXAVModel")
_READ = ("transformer_blocks", "num_attention_heads", "attention_head_dim", "patchifier")


def refusal(model: nn.Module) -> Dense | None:
    """By class, patches and what the layout reads."""
    why = class_refusal(model, "LTX", "LTXBaseModel", CLASSES, _READ)
    return why or patch_refusal("LTX", model.patchifier.patch_size, (1, 1, 1))


def shape(model: nn.Module) -> tuple[int, int, int]:
    """(layers, heads, head_dim) of the video stream."""
    return len(model.transformer_blocks), int(model.num_attention_heads), int(model.attention_head_dim)


def blocks(model: nn.Module) -> Blocks:
    """One section; ComfyUI lets them be replaced as double blocks."""
    return (("double_block", len(model.transformer_blocks)),)


def outside(model: nn.Module) -> Dense:
    """Nothing is known to attend there."""
    return fallback.NO_LAYER


def token_grid(model: nn.Module, inputs: Inputs) -> TokenGrid | Dense:
    """[video, width fastest | guides], each latent a token.

    Guides are the last frames of the latents. ComfyUI drops tokens of theirs by the values of a mask: the sequence is
    then shorter than this layout and stays dense. A text or sound as long as the video could be taken for it.
    """
    x, context = inputs["x"], inputs.get("context")
    sound = x[1] if isinstance(x, (list, tuple)) and len(x) > 1 else None
    video = video_shape(x[0] if isinstance(x, (list, tuple)) else x)
    if isinstance(video, Dense):
        return video
    if inputs.get("generated_keyframes") is not None:
        return Dense("generated keyframes lie among the video's frames")
    frames, height, width = video[2:]
    keyframes = inputs.get("keyframe_idxs")
    guides = 0 if keyframes is None else keyframes.shape[2]
    if guides % (height * width) or guides >= frames * height * width:
        return Dense("guides that are not whole frames")
    others = [0 if context is None else context.shape[1]]
    if sound is not None:
        reference = inputs.get("ref_audio")
        others.append(sound.shape[2] + (0 if reference is None else reference["tokens"].shape[1]))
    if frames * height * width in others:
        return Dense("text or sound is exactly as long as the video")
    return TokenGrid(frames - guides // (height * width), height, width, 0, guides)


def output(model: nn.Module, layer: int) -> Callable[[Tensor], Tensor]:
    """The layer after the video's self-attention; gates of heads, where there are any, come before it."""
    return model.transformer_blocks[layer].attn1.to_out[0]


LTX = Family(
    name="ltx",
    arguments=("x", "timestep", "context", "attention_mask", "frame_rate", "transformer_options", "keyframe_idxs"),
    refusal=refusal,
    shape=shape,
    blocks=blocks,
    outside=outside,
    token_grid=token_grid,
    output=output,
    unquantized=r"transformer_blocks\.\d+\.(scale_shift_table|attn1\.q_norm\.weight)",
)
