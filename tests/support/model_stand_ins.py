"""Stand-ins for ComfyUI's models: the structure that detection looks at, without weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.runs.current import pop_run, push_run
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.plans.plan.plan import uniform_plan
from torch import Tensor, nn

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


@contextmanager
def hunyuan_run() -> Iterator[Run]:
    """A current run on the HunyuanVideo of this file, at a noise level where it is sparse."""
    plan = uniform_plan("hunyuan_video", 5, 2, 128, GRID, Diagonal(0))
    made = Run(PlanEngine(plan, 1.0, 0.0, "torch"), None)
    made.reason = made.engine.reason(0.5)
    push_run(made)
    try:
        yield made
    finally:
        pop_run(made)


def qkv() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(2, TOKENS + 11, 2, 128, generator=generator) for _ in range(3)]
