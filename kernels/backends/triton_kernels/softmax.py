"""One step of the online softmax, shared by all loops of the attention kernel.

    m' = max(m, max_j s_j),  l' = l e^(m-m') + sum_j e^(s_j-m'),  o' = o e^(m-m') + sum_j e^(s_j-m') v_j

(Milakov & Gimelshein 2018; Dao et al. 2022), with s in units of log 2.
"""

import triton
import triton.language as tl


@triton.jit
def softmax_step(acc, denom, m, scores, scale, v, PV: tl.constexpr, UPCAST: tl.constexpr):
    """One block of keys into the running sums; scores (queries, keys) times the scalar `scale` are the s above.

    PV: `model` keeps the dtype of v and sums in fp32; `fp16` sums a block in fp16, twice as fast on consumer cards;
    `fp8` takes v in fp8, 448 (the largest fp8 number) standing for a weight of 1.
    UPCAST: the interpreter gets bf16 dots wrong and fp32 ones right.
    """
    m_new = tl.maximum(m, tl.max(scores, 1) * scale)
    p = tl.math.exp2(scores * scale - m_new[:, None])
    alpha = tl.math.exp2(m - m_new)
    denom = denom * alpha + tl.sum(p, 1)
    acc = acc * alpha[:, None]
    if PV == "fp8":
        acc = tl.dot((p * 448.0).to(v.dtype), v, acc)
    elif PV == "fp16":
        # weights of 1/64: the sum over a block of 64 keys is then no larger than v, and never overflows
        acc += 64.0 * tl.dot((p * 0.015625).to(tl.float16), v.to(tl.float16), out_dtype=tl.float16).to(tl.float32)
    elif UPCAST:
        acc = tl.dot(p, v.to(tl.float32), acc)
    else:
        acc = tl.dot(p.to(v.dtype), v, acc)
    return acc, denom, m_new
