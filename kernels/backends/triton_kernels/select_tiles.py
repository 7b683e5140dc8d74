"""The key tiles with the largest scores of every query tile: routing's top-k without a sort.

The k-th largest score is found by bisection over the bits of the numbers, from the highest bit down: a bit of the
threshold is set when at least k scores are as large. Scores above the threshold are all taken, equal ones in their
order until there are k. The tiles are written in ascending order, neighbours in memory one after the other.
"""

import triton
import triton.language as tl


@triton.jit
def _ordered(x):
    """int32 with the order of the float32 x: the bits of negative numbers count down."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _count(SCORES, threshold, lane, tiles, BLOCK: tl.constexpr):
    """How many scores of a row are at least the threshold."""
    found = tl.zeros([], tl.int32)
    for first in tl.range(0, tiles, BLOCK, num_stages=1):
        x = _ordered(tl.load(SCORES + first + lane, mask=first + lane < tiles, other=0.0))
        found += tl.sum(((x >= threshold) & (first + lane < tiles)).to(tl.int32), 0)
    return found


@triton.jit(do_not_specialize=["first_list", "list_rows", "tiles"])
def select_tiles_kernel(
    SCORES, KV_INDICES, STARTS, KV_NUM_BLOCKS,
    first_list, list_rows, tiles,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """SCORES (lists, query tiles, tiles) fp32 of lists from first_list on -> KV_NUM_BLOCKS entries of KV_INDICES from
    STARTS on; STARTS, KV_NUM_BLOCKS (all lists, list_rows). One program per query tile and list.
    """
    row = tl.program_id(0)
    own = tl.program_id(1)
    place = (first_list + own) * list_rows + row
    kept = tl.load(KV_NUM_BLOCKS + place)
    KV_INDICES += tl.load(STARTS + place)
    SCORES += (own.to(tl.int64) * tl.num_programs(0) + row) * tiles
    lane = tl.arange(0, BLOCK)

    threshold = tl.full([], -2147483648, tl.int32)
    bit = threshold
    for _ in tl.range(0, 32, num_stages=1):
        reached = _count(SCORES, threshold ^ bit, lane, tiles, BLOCK)
        threshold = tl.where(reached >= kept, threshold ^ bit, threshold)
        bit = (bit >> 1) & 0x7FFFFFFF

    # so many scores that equal the threshold are taken; no score is above the largest number
    above = _count(SCORES, threshold + 1, lane, tiles, BLOCK)
    equal = kept - tl.where(threshold == 2147483647, 0, above)
    for first in tl.range(0, tiles, BLOCK, num_stages=1):
        tile = first + lane
        x = _ordered(tl.load(SCORES + tile, mask=tile < tiles, other=0.0))
        ties = ((x == threshold) & (tile < tiles)).to(tl.int32)
        place_of_tie = tl.cumsum(ties, 0)
        taken = ((x > threshold) | ((ties > 0) & (place_of_tie <= equal))) & (tile < tiles)
        order = tl.cumsum(taken.to(tl.int32), 0) - 1
        tl.store(KV_INDICES + order, tile.to(KV_INDICES.dtype.element_ty), mask=taken)
        KV_INDICES += tl.sum(taken.to(tl.int32), 0)
        equal -= tl.sum(ties, 0)
