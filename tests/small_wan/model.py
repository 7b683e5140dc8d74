"""Wan 2.1 T2V in plain torch, with exactly the state-dict keys of the published checkpoints.

ComfyUI's Load Diffusion Model therefore loads the weights unchanged, and the tests compare both networks.
Attention is a hook: `attention(layer, q, k, v, grid)` with q, k, v (B, S, H, D), so that any backend can be tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_DIM = 128
FREQ_DIM = 256
TEXT_DIM = 4096
LATENT_CHANNELS = 16
EPS = 1e-6

TokenShape = tuple[int, int, int]
AttentionHook = Callable[[int, Tensor, Tensor, Tensor, TokenShape], Tensor]


def dense_attention(layer: int, q: Tensor, k: Tensor, v: Tensor, grid: TokenShape) -> Tensor:
    """Softmax attention over all tokens; the hook a model runs with when it gets none."""
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def rope_angles(grid: TokenShape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (1, S, 1, D/2) of Wan's 3-D rotary embedding: D/2 split over t, h, w."""
    spatial = 2 * (HEAD_DIM // 6)
    axis_dims = (HEAD_DIM - 2 * spatial, spatial, spatial)
    angles = []
    for axis, (size, dim) in enumerate(zip(grid, axis_dims, strict=True)):
        omega = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        view = [1, 1, 1, -1]
        view[axis] = size
        angles.append(torch.outer(torch.arange(size, dtype=torch.float64), omega).view(view).expand(*grid, -1))
    angle = torch.cat(angles, -1).reshape(1, math.prod(grid), 1, -1)
    return angle.cos().float().to(device), angle.sin().float().to(device)


def apply_rope(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate neighbouring pairs of the last dimension of x (B, S, H, D)."""
    cos, sin = rope
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Self- and cross-attention of Wan: RMS norm of q and k over all heads together, then rotary embedding."""

    def __init__(self, dim: int):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, EPS), nn.RMSNorm(dim, EPS)

    def project(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(source)), self.v(source)
        return q.unflatten(-1, (-1, HEAD_DIM)), k.unflatten(-1, (-1, HEAD_DIM)), v.unflatten(-1, (-1, HEAD_DIM))


class Block(nn.Module):
    """One Wan block: modulated self-attention, cross-attention to the context, modulated feed-forward."""

    def __init__(self, dim: int, ffn_dim: int):
        super().__init__()
        self.dim = dim
        self.self_attn, self.cross_attn = Attention(dim), Attention(dim)
        self.norm3 = nn.LayerNorm(dim, EPS)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, x: Tensor, e: Tensor, context: Tensor, rope: tuple[Tensor, Tensor], attend: Callable) -> Tensor:
        e = (self.modulation + e).chunk(6, 1)
        h = torch.addcmul(e[0], F.layer_norm(x, (self.dim,), eps=EPS), 1 + e[1])
        q, k, v = self.self_attn.project(h, h)
        dtype = v.dtype
        out = attend(apply_rope(q, rope).to(dtype), apply_rope(k, rope).to(dtype), v)
        x = torch.addcmul(x, self.self_attn.o(out.flatten(2)), e[2])
        q, k, v = self.cross_attn.project(self.norm3(x), context)
        x = x + self.cross_attn.o(dense_attention(-1, q.to(dtype), k.to(dtype), v, (0, 0, 0)).flatten(2))
        h = torch.addcmul(e[3], F.layer_norm(x, (self.dim,), eps=EPS), 1 + e[4])
        return torch.addcmul(x, self.ffn(h), e[5])


class Head(nn.Module):
    """Modulated projection of each token to its patch."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.dim = dim
        self.head = nn.Linear(dim, out_dim)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation + e[:, None]).chunk(2, 1)
        return self.head(torch.addcmul(shift, F.layer_norm(x, (self.dim,), eps=EPS), 1 + scale))


class SmallWan(nn.Module):
    """Wan 2.1 T2V: latents (B, 16, T, H, W), timestep (B,) in 0..1000, context (B, L, 4096) -> velocity."""

    def __init__(self, dim: int = 384, ffn_dim: int = 1024, num_layers: int = 4):
        super().__init__()
        self.dim, self.num_layers, self.num_heads = dim, num_layers, dim // HEAD_DIM
        self.patch_embedding = nn.Conv3d(LATENT_CHANNELS, dim, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(nn.Linear(TEXT_DIM, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(FREQ_DIM, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim * 6))
        self.blocks = nn.ModuleList([Block(dim, ffn_dim) for _ in range(num_layers)])
        self.head = Head(dim, LATENT_CHANNELS * 4)
        nn.init.zeros_(self.head.head.weight)
        nn.init.zeros_(self.head.head.bias)

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, attention: AttentionHook = dense_attention
    ) -> Tensor:
        batch, channels, frames, height, width = x.shape
        grid = (frames, height // 2, width // 2)
        rope = rope_angles(grid, x.device)
        h = self.patch_embedding(x).flatten(2).transpose(1, 2)
        e = self.time_embedding(timestep_features(timestep))
        modulation = self.time_projection(e).unflatten(1, (6, self.dim))
        context = self.text_embedding(context)
        for layer, block in enumerate(self.blocks):
            h = block(h, modulation, context, rope, lambda q, k, v, layer=layer: attention(layer, q, k, v, grid))
        h = self.head(h, e)
        return (
            h.view(batch, *grid, 1, 2, 2, channels)
            .permute(0, 7, 1, 4, 2, 5, 3, 6)
            .reshape(batch, channels, frames, height, width)
        )


def timestep_features(timestep: Tensor) -> Tensor:
    """Sinusoidal features (B, 256) of a timestep in 0..1000."""
    half = FREQ_DIM // 2
    omega = 10000.0 ** (-torch.arange(half, device=timestep.device, dtype=torch.float32) / half)
    angle = torch.outer(timestep.float(), omega)
    return torch.cat([angle.cos(), angle.sin()], -1)
