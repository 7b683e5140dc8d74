"""What raylight does to a Wan in each of its workers, in small, with its names where the pack reads them."""

from __future__ import annotations

import sys
from types import MethodType, ModuleType, SimpleNamespace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

EXTRA = 0
"""Tokens after the video that ComfyUI's forward says nothing of."""


def offer_groups(group: dist.ProcessGroup) -> None:
    """The part of xFuser that says which ranks share a sequence."""
    names = ("xfuser", "xfuser.core", "xfuser.core.distributed")
    for name in names:
        sys.modules[name] = ModuleType(name)
    sys.modules[names[-1]].get_sp_group = lambda: SimpleNamespace(device_group=group)


def xfuser_optimized_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Dense attention of a shard (B, S / ranks, H*D) to all tokens, pads included."""
    k, v = gathered(k), gathered(v)
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def gathered(x: Tensor) -> Tensor:
    """All tokens of a shard."""
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts, 1)


def self_attention(self, x, freqs, transformer_options={}):  # noqa: B006 - ComfyUI's signature
    """In the place of `WanSelfAttention.forward`."""
    from comfy.ldm.flux.math import apply_rope1

    shape = (*x.shape[:2], self.num_heads, self.head_dim)
    q, k = (apply_rope1(norm(layer(x)).view(shape), freqs).flatten(2)
            for layer, norm in ((self.q, self.norm_q), (self.k, self.norm_k)))  # fmt: skip
    return self.o(xfuser_optimized_attention(q, k, self.v(x), heads=self.num_heads))


def shard(x: Tensor) -> Tensor:
    """This rank's tokens of x (B, S, ...), with zeros at the end until the ranks can share them."""
    ranks = dist.get_world_size()
    x = torch.cat([x, x.new_zeros(x.shape[0], -x.shape[1] % ranks + EXTRA, *x.shape[2:])], 1)
    return x.chunk(ranks, 1)[dist.get_rank()]


def inject(patcher: object, *_: object) -> None:
    """What is called whenever a MODEL is loaded: its blocks compute shards."""
    model = patcher.model.diffusion_model
    first, last = model.blocks[0], model.blocks[-1]
    for block in model.blocks:
        block.self_attn.forward = MethodType(self_attention, block.self_attn)
    if hasattr(model, "sharded"):
        return
    model.sharded = True

    def before(block, args, kwargs):
        if block is first:
            model.tokens = args[0].shape[1]
            args = (shard(args[0]), *args[1:])
        return args, {**kwargs, "freqs": shard(kwargs["freqs"])}

    for block in model.blocks:
        block.register_forward_pre_hook(before, with_kwargs=True)
    last.register_forward_hook(lambda block, args, out: gathered(out)[:, : model.tokens])
