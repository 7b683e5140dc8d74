"""Means of the tokens of every full tile: what routing compares, and what stands for the tiles left out."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["heads", "tokens", "shifted"])
def tile_means_kernel(
    X, SHIFT, OUT, SLOTS, ORDERS, INDEX,
    stride_xb, stride_xs, stride_xh,
    heads, tokens, shifted,
    HEAD_DIM: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """X (B, S, H, D) by strides -> OUT (B*H, tiles, D); SHIFT (B*H, D) fp32 is subtracted unless shifted is 0.
    Others as in `sparse.py`. One program per tile and head.
    """
    tile = tl.program_id(0)
    batch = tl.load(SLOTS + 3 * tl.program_id(1)).to(tl.int64)
    head = tl.load(SLOTS + 3 * tl.program_id(1) + 1).to(tl.int64)
    number = tl.load(SLOTS + 3 * tl.program_id(1) + 2)
    INDEX += tl.load(ORDERS + number).to(tl.int64) * tokens
    offs_d = tl.arange(0, HEAD_DIM)
    token = tl.load(INDEX + tile * TILE + tl.arange(0, TILE)).to(tl.int64)
    x = tl.load(X + batch * stride_xb + head * stride_xh + token[:, None] * stride_xs + offs_d[None, :])
    shift = tl.load(SHIFT + (batch * heads + head) * HEAD_DIM + offs_d, mask=offs_d < HEAD_DIM * shifted, other=0.0)
    mean = tl.sum(x.to(tl.float32), 0) / TILE - shift
    row = (batch * heads + head) * tl.num_programs(0) + tile
    tl.store(OUT + row * HEAD_DIM + offs_d, mean.to(OUT.dtype.element_ty))
