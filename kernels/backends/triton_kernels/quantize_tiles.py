"""Keys to INT8 and values to normalised fp16, in tile order: for 8-bit attention, and for sums of P V in fp16.

    k8 = round((k - mean) / k_scale),  k_scale = max |k - mean| / 127 over a key tile
    v16 = v / v_scale,                 v_scale = max |v| / 0.03 over all tokens of a channel

Keys follow SageAttention (arXiv 2410.02367, smoothing of K): subtracting the mean key shifts all scores of a query
alike, which the softmax does not see, and removes the outlier channels that would use up the 8 bits. Values follow
SageAttention 2 (arXiv 2411.10958, scale per channel): `softmax.py` says why they are at most 0.03.
"""

import triton
import triton.language as tl

LARGEST_VALUE = tl.constexpr(0.03)
"""64 weights of 2^15 times this are 62,915, below fp16's largest number."""


@triton.jit
def value_scale(largest):
    """v_scale of channels whose largest |v| is given."""
    return tl.maximum(largest, 1e-30) * (1.0 / LARGEST_VALUE)


@triton.jit(do_not_specialize=["first_slot", "heads", "tokens"])
def quantize_tiles_kernel(
    K, V, K_MEAN, V_LARGEST, K_TILES, V_TILES, K_SCALE, SLOTS, ORDERS, INDEX,
    stride_kb, stride_ks, stride_kh,
    stride_vb, stride_vs, stride_vh,
    first_slot, heads, tokens,
    HEAD_DIM: tl.constexpr, KEY_TILE: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """K, V (B, S, H, D) by strides; K_MEAN, V_LARGEST (B*H, D) fp32; K_TILES (slots, S, D) int8 and K_SCALE (slots, key
    tiles) fp32, written where KEYS; V_TILES (slots, S, D) fp16, written where VALUES; others as in `sparse.py`. One
    program per key tile and slot.
    """
    tile = tl.program_id(0)
    slot = tl.program_id(1).to(tl.int64)
    SLOTS += 3 * (first_slot + slot)
    batch = tl.load(SLOTS).to(tl.int64)
    head = tl.load(SLOTS + 1).to(tl.int64)
    INDEX += tl.load(ORDERS + tl.load(SLOTS + 2)).to(tl.int64) * tokens
    offs_n = tile * KEY_TILE + tl.arange(0, KEY_TILE)
    offs_d = tl.arange(0, HEAD_DIM)
    valid = (offs_n < tokens)[:, None]
    token = tl.load(INDEX + offs_n, mask=offs_n < tokens, other=0).to(tl.int64)[:, None]
    out = (slot * tokens + offs_n)[:, None] * HEAD_DIM + offs_d[None, :]
    channel = (batch * heads + head) * HEAD_DIM + offs_d

    if KEYS:
        K += batch * stride_kb + head * stride_kh
        k = tl.load(K + token * stride_ks + offs_d[None, :], mask=valid, other=0.0)
        k = tl.where(valid, k.to(tl.float32) - tl.load(K_MEAN + channel)[None, :], 0.0)
        largest = tl.maximum(tl.max(tl.max(tl.abs(k), 1), 0), 1e-12)
        tl.store(K_TILES + out, tl.math.floor(k * (127.0 / largest) + 0.5).to(tl.int8), mask=valid)
        tl.store(K_SCALE + slot * tl.cdiv(tokens, KEY_TILE) + tile, largest / 127.0)

    if VALUES:
        V += batch * stride_vb + head * stride_vh
        v = tl.load(V + token * stride_vs + offs_d[None, :], mask=valid, other=0.0)
        v = v.to(tl.float32) / value_scale(tl.load(V_LARGEST + channel))[None, :]
        tl.store(V_TILES + out, v.to(tl.float16), mask=valid)
