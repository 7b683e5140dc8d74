"""Keys to INT8 for the attention kernel, in tile order: SageAttention's smoothing (arXiv 2410.02367, section on K).

    k8 = round((k - mean) / scale),  scale = max |k - mean| / 127 over a key tile

Subtracting the mean of all keys shifts all scores of a query alike, which the softmax does not see; it takes away the
outlier channels that would eat the 8 bits.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["heads", "tokens"])
def quantize_keys_kernel(
    K, MEAN, K_INT8, K_SCALE, SLOTS, ORDERS, INDEX,
    stride_kb, stride_ks, stride_kh,
    heads, tokens,
    HEAD_DIM: tl.constexpr, KEY_TILE: tl.constexpr,
):  # fmt: skip
    """K (B, S, H, D) by strides; MEAN (B*H, D) fp32; K_INT8 (B*H, S, D); K_SCALE (B*H, key tiles); others as in
    `sparse.py`. One program per key tile and head.
    """
    tile = tl.program_id(0)
    batch = tl.load(SLOTS + 3 * tl.program_id(1)).to(tl.int64)
    head = tl.load(SLOTS + 3 * tl.program_id(1) + 1).to(tl.int64)
    number = tl.load(SLOTS + 3 * tl.program_id(1) + 2)
    INDEX += tl.load(ORDERS + number).to(tl.int64) * tokens
    offs_n = tile * KEY_TILE + tl.arange(0, KEY_TILE)
    offs_d = tl.arange(0, HEAD_DIM)
    valid = offs_n < tokens
    key = tl.load(INDEX + offs_n, mask=valid, other=0).to(tl.int64)
    k = tl.load(
        K + batch * stride_kb + head * stride_kh + key[:, None] * stride_ks + offs_d[None, :],
        mask=valid[:, None],
        other=0.0,
    )
    mean = tl.load(MEAN + (batch * heads + head) * HEAD_DIM + offs_d)
    k = tl.where(valid[:, None], k.to(tl.float32) - mean[None, :], 0.0)
    largest = tl.maximum(tl.max(tl.max(tl.abs(k), 1), 0), 1e-12)
    rounded = tl.math.floor(k * (127.0 / largest) + 0.5).to(tl.int8)
    row = (batch * heads + head) * tokens + offs_n
    tl.store(K_INT8 + row[:, None] * HEAD_DIM + offs_d[None, :], rounded, mask=valid[:, None])
    tl.store(K_SCALE + (batch * heads + head) * tl.cdiv(tokens, KEY_TILE) + tile, largest / 127.0)
