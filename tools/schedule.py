"""How evenly a launch loads a GPU, worked out without one.

Programs start in launch order, each on the processor that is free first, and take as long as they have key tiles. The
makespan over the mean load is what uneven rows cost: 1.0 is a launch whose processors all end together.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from sparse_vdit.kernels.lists import TileLists
from sparse_vdit.kernels.tiling import QUERY_TILE

SEGMENT_STEP = 32  # keys of the dense segment that a program takes at a time


def program_work(lists: TileLists, head_lists: Sequence[int], batch: int = 1, rows: int = QUERY_TILE) -> list[float]:
    """Work of each program in launch order, in key tiles: of all heads what lies past the full query tiles, which
    attends everything; then the full tiles, slot by slot of `lists.slots`.

    Args:
        head_lists: number of a list for each head, or for each (batch, head) with batch 1.
        rows: queries of a program.
    """
    pairs = tuple(head_lists) * batch
    tiled_keys = lists.grid.video_tokens // lists.key_tile * lists.key_tile
    segment = -(-(lists.grid.tokens - tiled_keys) // SEGMENT_STEP) * SEGMENT_STEP / lists.key_tile
    full, blocks = (lists.starts.shape[1] - 1) * lists.query_tile // rows, -(-lists.grid.tokens // rows)
    counts = [_counts(lists, number) for number in lists.slots(pairs, len(head_lists))[:, 2].tolist()]
    order = [counts_of[-1] for _ in range(full, blocks) for counts_of in counts]
    order += [counts_of[block * rows // lists.query_tile] for counts_of in counts for block in range(full)]
    return [0.0 if count < 0 else count + segment for count in order]


def makespan(work: Iterable[float], workers: int) -> float:
    """When the last of the programs ends, each taken in turn by the worker that is free first.

    Raises:
        ValueError: fewer than one worker.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}, expected at least 1")
    free = [0.0] * workers
    for load in work:
        heapq.heapreplace(free, free[0] + load)
    return max(free)


def imbalance(
    lists: TileLists, head_lists: Sequence[int], workers: int, batch: int = 1, rows: int = QUERY_TILE
) -> float:
    """Makespan of a launch / its mean load, 1.0 or more; 1.0 when there is nothing to do.

    Args:
        workers: programs that run at a time, for the attention kernel the number of multiprocessors.
    """
    work = program_work(lists, head_lists, batch, rows)
    ideal = sum(work) / workers
    return makespan(work, workers) / ideal if ideal else 1.0


def _counts(lists: TileLists, number: int) -> list[int]:
    """Key tiles of each row of a list; those of a routed one as they will be once chosen."""
    counts = lists.kv_num_blocks[number].tolist()
    kept = lists.routed.get(number)
    return counts if kept is None else [kept] * (len(counts) - 1) + counts[-1:]
