"""The block-sparse attention kernel: softmax(q k^T / sqrt(d)) v over listed key tiles.

One program computes one query tile of one head: (1) where it is asked for, one summary key and value for each tile left
out; (2) the dense segment (text and the video's ragged end); (3) the listed key tiles, all full. What has to be masked
comes first: there it costs no registers in the main loop. Tokens are read through the index table of the list's
token order, so q, k and v are never permuted in memory. The next tile's token positions are loaded one iteration ahead
and the tile number two ahead: with a dependent load inside the loop the pipeline falls back to two buffers.

INT8: q k^T of 8-bit numbers, as SageAttention does it (arXiv 2410.02367): q is quantized here, one scale per query
tile; k by `quantize_keys.py`, smoothed, one scale per key tile and stored in tile order.
Packed: K_TILES and V_TILES hold the keys and values of all full tiles of the launched heads in tile order
(`pack_tiles.py`), read by tensor descriptors instead of token by token: TMA on Hopper and Blackwell.
Summaries: a tile left out counts as its mean key, as often as it has keys, with its mean value (zeroth order of PISA,
arXiv 2602.01077, and Sol-Attn, arXiv 2607.24027), so that the softmax runs over the whole sequence.
"""

import triton
import triton.language as tl

from .softmax import softmax_step

# plain numbers, so that no binary is made anew for a size that happens to be divisible by 16
UNSPECIALIZED = ["heads", "tokens", "video_tokens", "tiled_keys", "list_rows", "summaries", "biased"]


@triton.jit(do_not_specialize=UNSPECIALIZED)
def block_sparse_fwd_kernel(
    Q, K, V, K_TILES, V_TILES, OUT, SLOTS, STARTS, COUNTS, COLUMNS, ORDERS, INDEX,
    KEY_BIAS, K_INT8, K_SCALE, V_SCALE, K_MEANS, V_MEANS, KEPT,
    qk_scale,
    stride_qb, stride_qs, stride_qh,
    stride_kb, stride_ks, stride_kh,
    stride_vb, stride_vs, stride_vh,
    stride_ob, stride_os, stride_oh,
    heads, tokens, video_tokens, tiled_keys, list_rows, summaries, biased,
    HEAD_DIM: tl.constexpr, QUERY_TILE: tl.constexpr, KEY_TILE: tl.constexpr, ROWS: tl.constexpr,
    STAGES: tl.constexpr, INT8: tl.constexpr, PV: tl.constexpr, TAIL: tl.constexpr, UPCAST: tl.constexpr,
    PACKED: tl.constexpr,
):  # fmt: skip
    """Q, K, V, OUT (B, S, H, D) by strides; K_TILES, V_TILES descriptors of (slots * tiled_keys, D) if PACKED;
    SLOTS (slots, 3): batch, head, list; STARTS, COUNTS (lists, list_rows); INDEX (orders, S);
    KEY_BIAS (B, S - video_tokens) fp32, in units of log 2, unless biased is 0; K_INT8 (B*H, S, D), K_SCALE (B*H, key
    tiles, the ragged ones included) if INT8; V_SCALE (B*H, D) for PV in fp8; K_MEANS, V_MEANS (B*H, summaries, D) and
    KEPT (lists, list_rows, words of 32 tiles) if TAIL, summaries being the full key tiles.
    """
    # the rows past the last full tile attend everything: these programs, the longest, start first, those of all heads.
    # Then head by head, so that what runs together reads the same keys.
    full = (list_rows - 1) * QUERY_TILE // ROWS
    pairs = tl.num_programs(0) // tl.cdiv(tokens, ROWS)
    late = tl.program_id(0) - pairs * (tl.cdiv(tokens, ROWS) - full)
    slot = tl.program_id(0) % pairs
    block = full + tl.program_id(0) // pairs
    if late >= 0:
        slot = late // full
        block = late % full
    batch = tl.load(SLOTS + 3 * slot).to(tl.int64)
    head = tl.load(SLOTS + 3 * slot + 1).to(tl.int64)
    number = tl.load(SLOTS + 3 * slot + 2)
    row = number * list_rows + tl.minimum(block * ROWS // QUERY_TILE, list_rows - 1)
    start = tl.load(STARTS + row)
    count = tl.load(COUNTS + row)
    INDEX += tl.load(ORDERS + number).to(tl.int64) * tokens
    Q += batch * stride_qb + head * stride_qh
    K += batch * stride_kb + head * stride_kh
    V += batch * stride_vb + head * stride_vh
    OUT += batch * stride_ob + head * stride_oh

    offs_n = tl.arange(0, KEY_TILE)
    offs_d = tl.arange(0, HEAD_DIM)
    offs_m = block * ROWS + tl.arange(0, ROWS)
    query = tl.load(INDEX + offs_m, mask=offs_m < tokens, other=0).to(tl.int64)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)

    if count >= 0:
        q = tl.load(Q + query[:, None] * stride_qs + offs_d[None, :])
        if PV == "fp8":
            to_fp8 = 448.0 / tl.load(V_SCALE + (batch * heads + head) * HEAD_DIM + offs_d)
        m = tl.full([ROWS], -1e30, tl.float32)  # finite, so that a block without any valid key is nothing, not NaN
        denom = tl.zeros([ROWS], tl.float32)

        if TAIL:  # before q is quantized: few summaries are not worth 8-bit copies
            K_MEANS += (batch * heads + head) * summaries * HEAD_DIM
            V_MEANS += (batch * heads + head) * summaries * HEAD_DIM
            KEPT += row.to(tl.int64) * tl.cdiv(summaries, 32)
            for first in tl.range(0, summaries, 32, num_stages=1):
                summary = first + tl.arange(0, 32)
                valid = summary < summaries
                kept = tl.load(KEPT + summary // 32, mask=valid, other=-1) >> (summary % 32)
                k = tl.load(K_MEANS + summary[None, :] * HEAD_DIM + offs_d[:, None], mask=valid[None, :], other=0.0)
                if UPCAST:
                    scores = tl.dot(q.to(tl.float32), k.to(tl.float32)) * qk_scale
                else:
                    scores = tl.dot(q, k) * qk_scale
                scores = tl.where((kept & 1 == 0)[None, :], scores + tl.math.log2(KEY_TILE * 1.0), -float("inf"))
                v = tl.load(V_MEANS + summary[:, None] * HEAD_DIM + offs_d[None, :], mask=valid[:, None], other=0.0)
                if PV == "fp8":
                    v = (v.to(tl.float32) * to_fp8[None, :]).to(tl.float8e4nv)
                acc, denom, m = softmax_step(acc, denom, m, scores, 1.0, v, PV, UPCAST)

        scale = qk_scale
        if INT8:
            K_INT8 += (batch * heads + head) * tokens * HEAD_DIM
            K_SCALE += (batch * heads + head) * tl.cdiv(tokens, KEY_TILE)
            if TAIL:  # both forms of q at once would spill
                again = tl.load(INDEX + offs_m, mask=offs_m < tokens, other=0, eviction_policy="evict_first")
                q = tl.load(Q + again.to(tl.int64)[:, None] * stride_qs + offs_d[None, :])
            wide = q.to(tl.float32)
            largest = tl.maximum(tl.max(tl.max(tl.abs(wide), 1), 0), 1e-12)
            q = tl.math.floor(wide * (127.0 / largest) + 0.5).to(tl.int8)
            scale = qk_scale * largest / 127.0
        elif UPCAST:
            q = q.to(tl.float32)

        for first in tl.range(tiled_keys, tokens, 32, num_stages=1):
            few = tl.arange(0, 32)
            valid = first + few < tokens
            key = tl.load(INDEX + first + few, mask=valid, other=0).to(tl.int64)
            if INT8:
                k = tl.load(K_INT8 + (first + few)[:, None] * HEAD_DIM + offs_d[None, :], mask=valid[:, None], other=0)
                scores = tl.dot(q, k.T).to(tl.float32) * (scale * tl.load(K_SCALE + first // KEY_TILE))
            else:
                k = tl.load(K + key[None, :] * stride_ks + offs_d[:, None], mask=valid[None, :], other=0.0)
                if UPCAST:
                    k = k.to(tl.float32)
                scores = tl.dot(q, k) * scale
            text = first + few - video_tokens
            bias = KEY_BIAS + batch * (tokens - video_tokens) + text
            scores += tl.load(bias, mask=valid & (text >= 0) & (biased != 0), other=0.0)[None, :]
            scores = tl.where(valid[None, :], scores, -float("inf"))
            v = tl.load(V + key[:, None] * stride_vs + offs_d[None, :], mask=valid[:, None], other=0.0)
            if PV == "fp8":
                v = (v.to(tl.float32) * to_fp8[None, :]).to(tl.float8e4nv)
            acc, denom, m = softmax_step(acc, denom, m, scores, 1.0, v, PV, UPCAST)

        if count > 0:
            tile = tl.load(COLUMNS + start).to(tl.int32)
            next_tile = tl.load(COLUMNS + start + 1).to(tl.int32)
            next_key = tl.load(INDEX + tile * KEY_TILE + offs_n)
            if INT8:
                next_step = tl.load(K_SCALE + tile)
            for j in tl.range(start, start + count, num_stages=STAGES):
                if not PACKED:
                    key = next_key.to(tl.int64)
                    next_key = tl.load(INDEX + next_tile * KEY_TILE + offs_n)
                if INT8:
                    step = scale * next_step
                    next_step = tl.load(K_SCALE + next_tile)
                    k = tl.load(K_INT8 + (tile * KEY_TILE + offs_n)[:, None] * HEAD_DIM + offs_d[None, :])
                    scores = tl.dot(q, k.T).to(tl.float32)
                else:
                    step = scale
                    if PACKED:
                        k = K_TILES.load([slot * tiled_keys + tile * KEY_TILE, 0]).T
                    else:
                        k = tl.load(K + key[None, :] * stride_ks + offs_d[:, None])
                    if UPCAST:
                        k = k.to(tl.float32)
                    scores = tl.dot(q, k)
                if PACKED:
                    v = V_TILES.load([slot * tiled_keys + tile * KEY_TILE, 0])
                else:
                    v = tl.load(V + key[:, None] * stride_vs + offs_d[None, :])
                if INT8 or PACKED:
                    tile = tl.load(COLUMNS + j + 1).to(tl.int32)
                next_tile = tl.load(COLUMNS + j + 2).to(tl.int32)
                if PV == "fp8":
                    v = (v.to(tl.float32) * to_fp8[None, :]).to(tl.float8e4nv)
                acc, denom, m = softmax_step(acc, denom, m, scores, step, v, PV, UPCAST)

        acc = acc / denom[:, None]
        if PV == "fp8":
            acc = acc * (tl.load(V_SCALE + (batch * heads + head) * HEAD_DIM + offs_d) / (448.0 * 448.0))[None, :]

    # positions are loaded again, kept alive through the loops they would spill on sm_80; without the eviction hint the
    # compiler joins both loads
    offs_m = block * ROWS + tl.arange(0, ROWS)
    valid = offs_m < tokens
    query = tl.load(INDEX + offs_m, mask=valid, other=0, eviction_policy="evict_first").to(tl.int64)
    tl.store(OUT + query[:, None] * stride_os + offs_d[None, :], acc.to(OUT.dtype.element_ty), mask=valid[:, None])
