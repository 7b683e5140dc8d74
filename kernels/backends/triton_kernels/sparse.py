"""The block-sparse attention kernel: softmax(q k^T / sqrt(d)) v over listed key tiles.

One program computes one query tile of one head: first what has to be masked of the dense segment (text and the video's
ragged end), where it costs no registers in the main loop; then the listed key tiles, and the full ones of the segment
unless they have a bias. Tokens are read through the index table of the list's token order, so q, k and v are never
permuted in memory. The next tile's token positions are loaded one iteration ahead and the tile number two ahead: with a
dependent load inside the loop the pipeline falls back to two buffers.

INT8: q k^T of 8-bit numbers, as SageAttention does it (arXiv 2410.02367): q is quantized here, one scale per query; k
by `quantize_tiles.py`, which stores it in tile order.
FP16_SUMS: P V of a tile is summed in fp16, with values from `quantize_tiles.py` too.
PACKED: keys and values of all full tiles in tile order (`pack_tiles.py`), read by tensor descriptors instead of token
by token: TMA on Hopper and Blackwell.
"""

import triton
import triton.language as tl

from .quantize_tiles import value_scale
from .softmax import INTEGER_BITS, INTEGER_OFFSET, softmax_step

# plain numbers, so that no binary is made anew for a size that happens to be divisible by 16
UNSPECIALIZED = ["first_slot", "heads", "tokens", "video_tokens", "biased"]


@triton.jit
def integer_scores(q, k, OFFSET_SUMS: tl.constexpr):
    """q k^T of int8 as floats, INTEGER_OFFSET too large if OFFSET_SUMS."""
    if OFFSET_SUMS:
        start = tl.full([q.shape[0], k.shape[1]], INTEGER_BITS, tl.int32)
        scores = tl.dot(q, k, acc=start, out_dtype=tl.int32).to(tl.float32, bitcast=True)
    else:
        scores = tl.dot(q, k).to(tl.float32)
    return scores


@triton.jit
def tile_number(KV_INDICES, entry, end):
    """Key tile at an entry of a row, or, past the row's end, the tiles with which KV_INDICES begins."""
    return tl.load(KV_INDICES + entry - tl.where(entry < end, 0, end)).to(tl.int32)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def block_sparse_fwd_kernel(
    Q, K, V, K_TILES, V_TILES, OUT, SLOTS, STARTS, KV_NUM_BLOCKS, KV_INDICES, ORDERS, INDEX,
    KEY_BIAS, K_SCALE, V_LARGEST, qk_scale,
    stride_qb, stride_qs, stride_qh,
    stride_kb, stride_ks, stride_kh,
    stride_vb, stride_vs, stride_vh,
    first_slot, heads, tokens, video_tokens, biased,
    HEAD_DIM: tl.constexpr, QUERY_TILE: tl.constexpr, KEY_TILE: tl.constexpr, ROWS: tl.constexpr,
    STAGES: tl.constexpr, INT8: tl.constexpr, FP16_SUMS: tl.constexpr, OFFSET_SUMS: tl.constexpr,
    UPCAST: tl.constexpr, PACKED: tl.constexpr, SEGMENT: tl.constexpr,
):  # fmt: skip
    """Q, K, V, OUT (B, S, H, D), OUT contiguous; SLOTS (slots, 3): batch, head, list; this launch computes those
    from first_slot on; STARTS, KV_NUM_BLOCKS (lists, query tiles + 1); INDEX (orders, S); KEY_BIAS
    (B, S - video_tokens) fp32 unless biased is 0. Tables of the launched slots: K_TILES (slots, S, D) int8 and K_SCALE
    (slots, key tiles, ragged ones included) if INT8; V_TILES (slots, S, D) fp16 and V_LARGEST (B*H, D) if FP16_SUMS;
    K_TILES and V_TILES are descriptors of (slots * keys in full tiles, D) if PACKED.
    """
    list_rows = video_tokens // QUERY_TILE + 1
    tiles = video_tokens // KEY_TILE
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
    SLOTS += 3 * (first_slot + slot)
    batch = tl.load(SLOTS).to(tl.int64)
    head = tl.load(SLOTS + 1).to(tl.int64)
    number = tl.load(SLOTS + 2)
    row = number * list_rows + tl.minimum(block * ROWS // QUERY_TILE, list_rows - 1)
    start = tl.load(STARTS + row)
    count = tl.load(KV_NUM_BLOCKS + row)
    INDEX += tl.load(ORDERS + number).to(tl.int64) * tokens
    Q += batch * stride_qb + head * stride_qh
    K += batch * stride_kb + head * stride_kh
    V += batch * stride_vb + head * stride_vh

    # full tiles past the video's are taken like listed ones, but for those that have a bias
    full_tiles = tokens // KEY_TILE
    if biased != 0:
        full_tiles = tiles
    end = start + count
    last = end + full_tiles - tiles
    offs_n = tl.arange(0, KEY_TILE)
    offs_d = tl.arange(0, HEAD_DIM)
    offs_m = block * ROWS + tl.arange(0, ROWS)
    query = tl.load(INDEX + offs_m, mask=offs_m < tokens, other=0).to(tl.int64)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    OFFSET: tl.constexpr = INTEGER_OFFSET if OFFSET_SUMS else 0.0

    if count >= 0:
        q = tl.load(Q + query[:, None] * stride_qs + offs_d[None, :])
        m = tl.full([ROWS], -1e30, tl.float32)  # finite, so that a block without any valid key is nothing, not NaN
        denom = tl.zeros([ROWS], tl.float32)
        scale = qk_scale
        if INT8:
            K_TILES += slot.to(tl.int64) * tokens * HEAD_DIM
            K_SCALE += slot.to(tl.int64) * tl.cdiv(tokens, KEY_TILE)
            wide = q.to(tl.float32)
            largest = tl.maximum(tl.max(tl.abs(wide), 1), 1e-12)
            q = tl.math.floor(wide * (127.0 / largest)[:, None] + 0.5).to(tl.int8)
            scale = qk_scale * largest / 127.0
        elif UPCAST:
            q = q.to(tl.float32)
        if FP16_SUMS:
            V_TILES += slot.to(tl.int64) * tokens * HEAD_DIM

        for first in tl.range(full_tiles * KEY_TILE, tokens, SEGMENT, num_stages=1):
            place = first + tl.arange(0, SEGMENT)
            valid = place < tokens
            key = tl.load(INDEX + place, mask=valid, other=0).to(tl.int64)
            if INT8:
                k = tl.load(K_TILES + place[:, None] * HEAD_DIM + offs_d[None, :], mask=valid[:, None], other=0)
                scores = integer_scores(q, k.T, OFFSET_SUMS) - OFFSET
                scores = scores * (scale * tl.load(K_SCALE + first // KEY_TILE))[:, None]
            else:
                k = tl.load(K + key[None, :] * stride_ks + offs_d[:, None], mask=valid[None, :], other=0.0)
                if UPCAST:
                    k = k.to(tl.float32)
                scores = tl.dot(q, k) * scale
            bias = KEY_BIAS + batch * (tokens - video_tokens) + place - video_tokens
            bias = tl.load(bias, mask=valid & (place >= video_tokens) & (biased != 0), other=0.0)
            bias = tl.maximum(bias * 1.4426950408889634, -1e30, propagate_nan=tl.PropagateNan.ALL)  # log2(e)
            scores += bias[None, :]
            scores = tl.where(valid[None, :], scores, -float("inf"))
            if FP16_SUMS:
                v = tl.load(V_TILES + place[:, None] * HEAD_DIM + offs_d[None, :], mask=valid[:, None], other=0.0)
            else:
                v = tl.load(V + key[:, None] * stride_vs + offs_d[None, :], mask=valid[:, None], other=0.0)
            acc, denom, m = softmax_step(acc, denom, m, scores, 1.0, v, 0.0, False, FP16_SUMS, UPCAST)

        if start < last:
            tile = tile_number(KV_INDICES, start, end)
            next_tile = tile_number(KV_INDICES, start + 1, end)
            # tokens are addressed in units of 16 bytes, whose numbers fit 32 bits
            units_k = stride_ks // 8
            units_v = stride_vs // 8
            K_GATHERED: tl.constexpr = not (PACKED or INT8)
            V_GATHERED: tl.constexpr = not (PACKED or FP16_SUMS)
            if K_GATHERED or V_GATHERED:
                next_key = tl.load(INDEX + tile * KEY_TILE + offs_n)
            if INT8:
                next_step = tl.load(K_SCALE + tile)
            for j in tl.range(start, last, num_stages=STAGES):
                place = tile * KEY_TILE + offs_n
                step = scale
                if K_GATHERED or V_GATHERED:
                    key = next_key
                    next_key = tl.load(INDEX + next_tile * KEY_TILE + offs_n)
                if INT8:
                    step = scale * next_step
                    next_step = tl.load(K_SCALE + next_tile)
                    k = tl.load(K_TILES + place[:, None] * HEAD_DIM + offs_d[None, :])
                    scores = integer_scores(q, k.T, OFFSET_SUMS)
                else:
                    if PACKED:
                        k = K_TILES.load([(slot * (tokens // KEY_TILE) + tile) * KEY_TILE, 0]).T
                    else:
                        k = tl.load(K + (key * units_k).to(tl.int64)[None, :] * 8 + offs_d[:, None])
                    if UPCAST:
                        k = k.to(tl.float32)
                    scores = tl.dot(q, k)
                if PACKED:
                    v = V_TILES.load([(slot * (tokens // KEY_TILE) + tile) * KEY_TILE, 0])
                elif FP16_SUMS:
                    v = tl.load(V_TILES + place[:, None] * HEAD_DIM + offs_d[None, :])
                else:
                    v = tl.load(V + (key * units_v).to(tl.int64)[:, None] * 8 + offs_d[None, :])
                if not (K_GATHERED and V_GATHERED):
                    tile = tile_number(KV_INDICES, j + 1, end)
                next_tile = tile_number(KV_INDICES, j + 2, end)
                acc, denom, m = softmax_step(acc, denom, m, scores, step, v, OFFSET, INT8, FP16_SUMS, UPCAST)

        acc = acc / denom[:, None]
        if FP16_SUMS:
            acc = acc * value_scale(tl.load(V_LARGEST + (batch * heads + head) * HEAD_DIM + offs_d))[None, :]

    # positions are loaded again, kept alive through the loops they would spill on sm_80; without the eviction hint the
    # compiler joins both loads
    offs_m = block * ROWS + tl.arange(0, ROWS)
    valid = offs_m < tokens
    query = tl.load(INDEX + offs_m, mask=valid, other=0, eviction_policy="evict_first").to(tl.int64)
    out = OUT + ((batch * tokens + query) * heads + head)[:, None] * HEAD_DIM + offs_d[None, :]
    tl.store(out, acc.to(OUT.dtype.element_ty), mask=valid[:, None])
