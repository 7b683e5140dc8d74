"""Attention kernels whose speeds others published, written anew with the same structure, to calibrate the speed model.

They run nowhere; they are compiled and their machine code is read. What each stands for:

    descriptor_attention: Triton's tutorial on fused attention, without a mask; its descriptors come from the host, or
        are made on the card, where they become pointers on cards without TMA.
    pointer_attention: FlashAttention 2 in bf16 on GeForce cards, where the tensor cores limit any such kernel.
    int8_attention: SageAttention 1 (arXiv 2410.02367): 8-bit q k^T with a scale for each tile, P V in fp16 with sums in
        fp16.
    listed_attention: the Triton kernel of FastVideo's video sparse attention: lists of key tiles, of which each has its
        own number of valid keys.
"""

import triton
import triton.language as tl


@triton.jit
def weigh(acc, denom, m, scores):
    """The running sums rescaled for new scores (of the base 2), and the weights."""
    larger = tl.maximum(m, tl.max(scores, 1))
    weights = tl.math.exp2(scores - larger[:, None])
    decay = tl.math.exp2(m - larger)
    denom = denom * decay + tl.sum(weights, 1)
    return acc * decay[:, None], denom, larger, weights


@triton.jit
def descriptor_attention(
    Q, K, V, OUT, qk_scale, rows, tokens,
    HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr, MADE_HERE: tl.constexpr,
):  # fmt: skip
    """Q, K, V, OUT: (rows, HEAD_DIM), all heads one after the other, `tokens` rows each."""
    if MADE_HERE:
        Q = tl.make_tensor_descriptor(Q, [rows, HEAD_DIM], [HEAD_DIM, 1], [ROWS, HEAD_DIM])
        K = tl.make_tensor_descriptor(K, [rows, HEAD_DIM], [HEAD_DIM, 1], [KEYS, HEAD_DIM])
        V = tl.make_tensor_descriptor(V, [rows, HEAD_DIM], [HEAD_DIM, 1], [KEYS, HEAD_DIM])
        OUT = tl.make_tensor_descriptor(OUT, [rows, HEAD_DIM], [HEAD_DIM, 1], [ROWS, HEAD_DIM])
    head = tl.program_id(1) * tokens
    q = Q.load([head + tl.program_id(0) * ROWS, 0])
    m = tl.full([ROWS], -float("inf"), tl.float32)
    denom = tl.full([ROWS], 1.0, tl.float32)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    for first in tl.range(0, tokens, KEYS, num_stages=STAGES):
        scores = tl.dot(q, K.load([head + first, 0]).T)
        larger = tl.maximum(m, tl.max(scores, 1) * qk_scale)
        weights = tl.math.exp2(scores * qk_scale - larger[:, None])
        decay = tl.math.exp2(m - larger)
        total = tl.sum(weights, 1)
        acc = tl.dot(weights.to(tl.float16), V.load([head + first, 0]), acc * decay[:, None])
        denom = denom * decay + total
        m = larger
    OUT.store([head + tl.program_id(0) * ROWS, 0], (acc / denom[:, None]).to(tl.float16))


@triton.jit
def pointer_attention(
    Q, K, V, OUT, qk_scale, tokens,
    HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Q, K, V, OUT: (heads, tokens, HEAD_DIM)."""
    start = tl.program_id(1).to(tl.int64) * tokens * HEAD_DIM
    columns = tl.arange(0, HEAD_DIM)
    own = start + (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None] * HEAD_DIM + columns[None, :]
    keys = start + tl.arange(0, KEYS)[None, :] * HEAD_DIM + columns[:, None]
    values = start + tl.arange(0, KEYS)[:, None] * HEAD_DIM + columns[None, :]
    K += keys
    V += values
    q = tl.load(Q + own)
    m = tl.full([ROWS], -float("inf"), tl.float32)
    denom = tl.full([ROWS], 1.0, tl.float32)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    for _ in tl.range(0, tokens, KEYS, num_stages=STAGES):
        scores = tl.dot(q, tl.load(K))
        larger = tl.maximum(m, tl.max(scores, 1) * qk_scale)
        weights = tl.math.exp2(scores * qk_scale - larger[:, None])
        decay = tl.math.exp2(m - larger)
        total = tl.sum(weights, 1)
        v = tl.load(V)
        acc = tl.dot(weights.to(v.dtype), v, acc * decay[:, None])
        denom = denom * decay + total
        m = larger
        K += KEYS * HEAD_DIM
        V += KEYS * HEAD_DIM
    tl.store(OUT + own, (acc / denom[:, None]).to(OUT.dtype.element_ty))


@triton.jit
def int8_attention(
    Q, K, V, OUT, Q_SCALE, K_SCALE, tokens, tiles,
    HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Q, K (heads, tokens, HEAD_DIM) int8, V, OUT the same in fp16; Q_SCALE, K_SCALE: one for each tile."""
    head = tl.program_id(1).to(tl.int64)
    start = head * tokens * HEAD_DIM
    columns = tl.arange(0, HEAD_DIM)
    places = tl.arange(0, KEYS)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own = start + rows[:, None] * HEAD_DIM + columns[None, :]
    K += start + places[None, :] * HEAD_DIM + columns[:, None]
    V += start + places[:, None] * HEAD_DIM + columns[None, :]
    K_SCALE += head * tiles
    q = tl.load(Q + own, mask=rows[:, None] < tokens)
    q_scale = tl.load(Q_SCALE + head * tl.num_programs(0) + tl.program_id(0))
    m = tl.full([ROWS], -float("inf"), tl.float32)
    denom = tl.full([ROWS], 1.0, tl.float32)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    for first in tl.range(0, tokens, KEYS, num_stages=STAGES):
        k = tl.load(K, mask=places[None, :] < tokens - first)
        scores = tl.dot(q, k).to(tl.float32) * q_scale * tl.load(K_SCALE)
        acc, denom, m, weights = weigh(acc, denom, m, scores)
        v = tl.load(V, mask=places[:, None] < tokens - first)
        acc += tl.dot(weights.to(tl.float16), v, out_dtype=tl.float16)
        K += KEYS * HEAD_DIM
        K_SCALE += 1
        V += KEYS * HEAD_DIM
    tl.store(OUT + own, (acc / denom[:, None]).to(tl.float16), mask=rows[:, None] < tokens)


@triton.jit
def listed_attention(
    Q, K, V, OUT, TILES, COUNTS, SIZES, qk_scale, tokens, longest,
    HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Q, K, V, OUT: (heads, tokens, HEAD_DIM); TILES: (heads, query tiles, longest); SIZES: valid keys of each tile."""
    row = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    start = tl.program_id(1).to(tl.int64) * tokens * HEAD_DIM
    columns = tl.arange(0, HEAD_DIM)
    places = tl.arange(0, KEYS)
    own = start + (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None] * HEAD_DIM + columns[None, :]
    K += start + places[None, :] * HEAD_DIM + columns[:, None]
    V += start + places[:, None] * HEAD_DIM + columns[None, :]
    TILES += row * longest
    q = tl.load(Q + own)
    m = tl.full([ROWS], -float("inf"), tl.float32)
    denom = tl.full([ROWS], 1.0, tl.float32)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    for number in tl.range(0, tl.load(COUNTS + row), num_stages=STAGES):
        tile = tl.load(TILES + number)
        scores = tl.dot(q, tl.load(K + tile * KEYS * HEAD_DIM)) * qk_scale
        scores = tl.where(places[None, :] < tl.load(SIZES + tile), scores, -float("inf"))
        acc, denom, m, weights = weigh(acc, denom, m, scores)
        v = tl.load(V + tile * KEYS * HEAD_DIM)
        acc = tl.dot(weights.to(v.dtype), v, acc)
    tl.store(OUT + own, (acc / denom[:, None]).to(OUT.dtype.element_ty))
