"""Keys or values of some heads copied into tile order, for the attention kernel that reads whole tiles."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["first_slot", "tokens"])
def pack_tiles_kernel(
    X, OUT, SLOTS, ORDERS, INDEX,
    stride_xb, stride_xs, stride_xh,
    first_slot, tokens,
    HEAD_DIM: tl.constexpr, KEY_TILE: tl.constexpr,
):  # fmt: skip
    """X (B, S, H, D) by strides -> OUT (slots, tiles * KEY_TILE, D); others as in `sparse.py`. One program per tile and
    slot.
    """
    tile = tl.program_id(0)
    slot = tl.program_id(1)
    SLOTS += 3 * (first_slot + slot)
    batch = tl.load(SLOTS).to(tl.int64)
    head = tl.load(SLOTS + 1).to(tl.int64)
    INDEX += tl.load(ORDERS + tl.load(SLOTS + 2)).to(tl.int64) * tokens
    place = tile * KEY_TILE + tl.arange(0, KEY_TILE)
    offs_d = tl.arange(0, HEAD_DIM)
    token = tl.load(INDEX + place).to(tl.int64)
    x = tl.load(X + batch * stride_xb + head * stride_xh + token[:, None] * stride_xs + offs_d[None, :])
    row = slot.to(tl.int64) * tl.num_programs(0) * KEY_TILE + place
    tl.store(OUT + row[:, None] * HEAD_DIM + offs_d[None, :], x)
