"""Stand-ins for ComfyUI's models: the structure that detection looks at, without weights."""

from __future__ import annotations

from dense_attention import model_attention
from torch import nn

optimized_attention = model_attention
"""What the models of this module call, by ComfyUI's name."""

GRID = (5, 7, 9)
TOKENS = 5 * 7 * 9


def blocks(count: int) -> nn.ModuleList:
    return nn.ModuleList([nn.Identity() for _ in range(count)])


class WanModel(nn.Module):
    """The structure of ComfyUI's model that detection looks at; so are the others below."""

    def __init__(self, patch_size: tuple = (1, 2, 2), ref_conv: object = None):
        super().__init__()
        self.patch_size, self.ref_conv, self.num_heads, self.dim = patch_size, ref_conv, 3, 384
        self.blocks = blocks(4)


class VaceWanModel(WanModel):
    pass


class CameraWanModel(WanModel):
    pass


class AnimateWanModel(WanModel):
    pass


class HunyuanVideo(nn.Module):
    def __init__(self, patch_size: tuple = (1, 2, 2), byt5: bool = False):
        super().__init__()
        self.patch_size, self.num_heads, self.hidden_size, self.txt_in = list(patch_size), 2, 256, nn.Identity()
        self.double_blocks, self.single_blocks = blocks(2), blocks(3)
        self.byt5_in = nn.Identity() if byt5 else None


class CogVideoXTransformer3DModel(nn.Module):
    def __init__(self, patch_size_t: int | None = None):
        super().__init__()
        self.patch_size, self.patch_size_t, self.num_attention_heads, self.attention_head_dim = 2, patch_size_t, 2, 64
        self.blocks = blocks(3)


class MiniMaxH3Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_size, self.blocks = (1, 2, 2), blocks(3)
        for block in self.blocks:
            block.attn = nn.Identity()
            block.attn.heads, block.attn.head_dim = 2, 128


class LTXBaseModel(nn.Module):
    def __init__(self, patch: int = 1):
        super().__init__()
        self.patchifier, self.num_attention_heads, self.attention_head_dim = nn.Identity(), 2, 64
        self.patchifier.patch_size, self.transformer_blocks = (1, patch, patch), blocks(3)


class LTXVModel(LTXBaseModel):
    pass


class LTXAVModel(LTXVModel):
    pass


class OddLTX(LTXBaseModel):
    pass


def wan(layers: int, heads: int, head_dim: int = 128) -> WanModel:
    """A Wan of this shape."""
    model = WanModel()
    model.blocks, model.num_heads, model.dim = blocks(layers), heads, head_dim * heads
    return model


def hunyuan(doubles: int, singles: int, heads: int, head_dim: int = 128) -> HunyuanVideo:
    """A HunyuanVideo of this shape."""
    model = HunyuanVideo()
    model.double_blocks, model.single_blocks = blocks(doubles), blocks(singles)
    model.num_heads, model.hidden_size = heads, head_dim * heads
    return model


def of_shape(layers: int, heads: int, with_text: bool) -> nn.Module:
    """A model of so many layers and heads: with text in its self-attention a HunyuanVideo, else a Wan."""
    return hunyuan(layers // 2, layers - layers // 2, heads) if with_text else wan(layers, heads)
