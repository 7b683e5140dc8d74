"""The block-sparse attention kernel: softmax(q k^T / sqrt(d)) v over listed key tiles, with an online softmax.

One program computes one query tile of one head: (1) the dense segment (text and the video's ragged end), masked, and
first, because masking there costs no registers in the main loop; (2) the listed key tiles, all full. Tokens are read
through the index table of the list's token order, so q, k and v are never permuted in memory. The next tile's token
positions are loaded one iteration ahead and the tile number two ahead: with a dependent load inside the loop the
pipeline falls back to two buffers.

Online softmax: m' = max(m, max_j s_j), l' = l e^(m-m') + sum_j e^(s_j-m'), o' = o e^(m-m') + sum_j e^(s_j-m') v_j
(Milakov & Gimelshein 2018; Dao et al. 2022), with s in units of log 2.
"""

import triton
import triton.language as tl


@triton.jit
def _accumulate(acc, denom, m, q, k, v, valid, qk_scale, MASKED: tl.constexpr, UPCAST: tl.constexpr):
    """One block of keys into the running sums. UPCAST: the interpreter gets bf16 dots wrong and fp32 ones right."""
    if UPCAST:
        k = k.to(tl.float32)
    scores = tl.dot(q, k)
    if MASKED:
        scores = tl.where(valid[None, :], scores, -float("inf"))
    m_new = tl.maximum(m, tl.max(scores, 1) * qk_scale)
    p = tl.math.exp2(scores * qk_scale - m_new[:, None])
    alpha = tl.math.exp2(m - m_new)
    denom = denom * alpha + tl.sum(p, 1)
    acc = acc * alpha[:, None]
    if UPCAST:
        acc = tl.dot(p, v.to(tl.float32), acc)
    else:
        acc = tl.dot(p.to(v.dtype), v, acc)
    return acc, denom, m_new


@triton.jit
def block_sparse_fwd_kernel(
    Q, K, V, OUT, SLOTS, STARTS, COUNTS, COLUMNS, ORDERS, INDEX,
    qk_scale,
    stride_qb, stride_qs, stride_qh,
    stride_kb, stride_ks, stride_kh,
    stride_vb, stride_vs, stride_vh,
    stride_ob, stride_os, stride_oh,
    heads, tokens, tiled_keys, list_rows,
    HEAD_DIM: tl.constexpr, QUERY_TILE: tl.constexpr, KEY_TILE: tl.constexpr, STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Q, K, V, OUT (B, S, H, D) by strides; SLOTS (H, 2); STARTS, COUNTS (lists, list_rows); INDEX (orders, S)."""
    tile = tl.program_id(0)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    slot = tl.program_id(1) % heads
    head = tl.load(SLOTS + 2 * slot).to(tl.int64)
    number = tl.load(SLOTS + 2 * slot + 1)
    row = number * list_rows + tl.minimum(tile, list_rows - 1)
    start = tl.load(STARTS + row)
    count = tl.load(COUNTS + row)
    INDEX += tl.load(ORDERS + number).to(tl.int64) * tokens
    Q += batch * stride_qb + head * stride_qh
    K += batch * stride_kb + head * stride_kh
    V += batch * stride_vb + head * stride_vh
    OUT += batch * stride_ob + head * stride_oh

    offs_n = tl.arange(0, KEY_TILE)
    offs_d = tl.arange(0, HEAD_DIM)
    offs_m = tile * QUERY_TILE + tl.arange(0, QUERY_TILE)
    query = tl.load(INDEX + offs_m, mask=offs_m < tokens, other=0).to(tl.int64)
    acc = tl.zeros([QUERY_TILE, HEAD_DIM], tl.float32)

    if count >= 0:
        q = tl.load(Q + query[:, None] * stride_qs + offs_d[None, :])
        if UPCAST:
            q = q.to(tl.float32)
        m = tl.full([QUERY_TILE], -float("inf"), tl.float32)
        denom = tl.zeros([QUERY_TILE], tl.float32)

        for first in tl.range(tiled_keys, tokens, KEY_TILE, num_stages=1):
            valid = first + offs_n < tokens
            key = tl.load(INDEX + first + offs_n, mask=valid, other=0).to(tl.int64)
            k = tl.load(K + key[None, :] * stride_ks + offs_d[:, None], mask=valid[None, :], other=0.0)
            v = tl.load(V + key[:, None] * stride_vs + offs_d[None, :], mask=valid[:, None], other=0.0)
            acc, denom, m = _accumulate(acc, denom, m, q, k, v, valid, qk_scale, True, UPCAST)

        if count > 0:
            next_key = tl.load(INDEX + tl.load(COLUMNS + start).to(tl.int32) * KEY_TILE + offs_n)
            next_tile = tl.load(COLUMNS + start + 1).to(tl.int32)
            for j in tl.range(start, start + count, num_stages=STAGES):
                key = next_key.to(tl.int64)
                next_key = tl.load(INDEX + next_tile * KEY_TILE + offs_n)
                next_tile = tl.load(COLUMNS + j + 2).to(tl.int32)
                k = tl.load(K + key[None, :] * stride_ks + offs_d[:, None])
                v = tl.load(V + key[:, None] * stride_vs + offs_d[None, :])
                acc, denom, m = _accumulate(acc, denom, m, q, k, v, offs_n < KEY_TILE, qk_scale, False, UPCAST)
        acc = acc / denom[:, None]

    # positions are loaded again, kept alive through the loops they would spill on sm_80; without the eviction hint the
    # compiler joins both loads
    offs_m = tile * QUERY_TILE + tl.arange(0, QUERY_TILE)
    valid = offs_m < tokens
    query = tl.load(INDEX + offs_m, mask=valid, other=0, eviction_policy="evict_first").to(tl.int64)
    tl.store(OUT + query[:, None] * stride_os + offs_d[None, :], acc.to(OUT.dtype.element_ty), mask=valid[:, None])
