"""One step of the online softmax, shared by both loops of the attention kernel.

    m' = max(m, max_j s_j),  l' = l e^(m-m') + sum_j e^(s_j-m'),  o' = o e^(m-m') + sum_j e^(s_j-m') v_j

(Milakov & Gimelshein 2018; Dao et al. 2022), with s in units of log 2.

Weights in fp16 are enlarged by 2^15, l and o alike, so that the quotient o / l stays the same. A key 20 nats below the
largest then still has a normal fp16 number as its weight, and not zero.
"""

import triton
import triton.language as tl

INTEGER_OFFSET = tl.constexpr(12582912.0)
"""1.5 * 2^23, whose bits plus an integer n are those of the float 1.5 * 2^23 + n, for |n| < 2^22. 8-bit products at
head_dim 128 are below 2^21."""

INTEGER_BITS = tl.constexpr(0x4B400000)
"""The bits of INTEGER_OFFSET. An int32 sum that starts here needs no conversion to float."""


@triton.jit
def softmax_step(
    acc, denom, m, scores, scale, v,
    OFFSET: tl.constexpr, BY_ROW: tl.constexpr, FP16_SUMS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Add one block of keys to the running sums.

    Args:
        scores: (queries, keys). `(scores - OFFSET) * scale` are the s of the formula.
        scale: positive, a scalar, or one for each query with BY_ROW.
        v: (keys, head_dim). With FP16_SUMS it is at most 0.03, so that 64 weights of 2^15 do not overflow.
        FP16_SUMS: sum the block in fp16, which consumer cards do twice as fast as in fp32.
        UPCAST: multiply in fp32, since the interpreter computes products of bf16 wrongly.
    """
    SHIFT: tl.constexpr = 15.0 if v.dtype == tl.float16 else 0.0
    m_new = tl.maximum(m, (tl.max(scores, 1) - OFFSET) * scale)
    each = scale
    if BY_ROW:
        each = scale[:, None]
    p = tl.math.exp2(scores * each - (m_new + (OFFSET * scale - SHIFT))[:, None])
    alpha = tl.math.exp2(m - m_new)
    denom = denom * alpha + tl.sum(p, 1)
    acc = acc * alpha[:, None]
    if FP16_SUMS:
        acc += tl.dot(p.to(tl.float16), v, out_dtype=tl.float16).to(tl.float32)
    elif UPCAST:
        acc = tl.dot(p, v.to(tl.float32), acc)
    else:
        acc = tl.dot(p.to(v.dtype), v, acc)
    return acc, denom, m_new
