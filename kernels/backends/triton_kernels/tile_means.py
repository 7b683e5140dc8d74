"""Means of the tokens of every full tile, by which routing compares tiles."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["tokens"])
def tile_means_kernel(
    X, OUT, SLOTS, ORDERS, INDEX,
    stride_xb, stride_xs, stride_xh,
    tokens,
    HEAD_DIM: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """X (B, S, H, D) by strides -> OUT (slots, tiles, D) fp32; others as in `sparse.py`. One program per tile and slot.
    """
    tile = tl.program_id(0)
    slot = tl.program_id(1)
    batch = tl.load(SLOTS + 3 * slot).to(tl.int64)
    head = tl.load(SLOTS + 3 * slot + 1).to(tl.int64)
    INDEX += tl.load(ORDERS + tl.load(SLOTS + 3 * slot + 2)).to(tl.int64) * tokens
    offs_d = tl.arange(0, HEAD_DIM)
    token = tl.load(INDEX + tile * TILE + tl.arange(0, TILE)).to(tl.int64)
    x = tl.load(X + batch * stride_xb + head * stride_xh + token[:, None] * stride_xs + offs_d[None, :])
    row = slot.to(tl.int64) * tl.num_programs(0) + tile
    tl.store(OUT + row * HEAD_DIM + offs_d, tl.sum(x.to(tl.float32), 0) / TILE)
