"""What judging all candidates on one attention call takes: operations beside the dense call's, and memory.

Counted and measured at the size of a real model's call, one head of it; heads are judged one after another, so the
memory is that of all. Operations are those of matrix products, as PyTorch counts them.

    python -m benchmarks.quality.profile_cost                          # Wan in 720p: 21x45x80 tokens, 256 rows
    python -m benchmarks.quality.profile_cost --grid 33 45 80 --rows 128

Writes benchmarks/results/profile_cost-<device>-<date>.json.
"""

from __future__ import annotations

import argparse
import math
import threading
import time
from pathlib import Path

import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.tiling import KEY_TILE, QUERY_TILE
from sparse_vdit.plans.plan.published import WAN_720P
from sparse_vdit.plans.profile.candidates import default_candidates
from sparse_vdit.plans.profile.errors import CandidateEvaluator
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.quality.small_wan_runs import GRID
from benchmarks.report import results

HEAD_DIM = 128


class PeakMemory:
    """The most memory of this process while the block runs, over what it had at its beginning, in bytes."""

    def __enter__(self) -> PeakMemory:
        self.bytes, self._running, start = 0, True, resident_bytes()

        def watch() -> None:
            while self._running:
                self.bytes = max(self.bytes, resident_bytes() - start)
                time.sleep(0.001)

        self._thread = threading.Thread(target=watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()


def resident_bytes() -> int:
    """Memory of this process, from /proc."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def cost(grid: TokenGrid, rows: int) -> dict:
    """One call of one head: a row of the result file."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, grid.tokens, 1, HEAD_DIM, generator=generator, dtype=torch.bfloat16) for _ in range(3))
    candidates = default_candidates()
    evaluator = CandidateEvaluator(grid, candidates, rows, QUERY_TILE, KEY_TILE)
    gram = torch.eye(HEAD_DIM)[None]
    with FlopCounterMode(display=False) as counter:
        evaluator.errors(q, k, v, gram, generator)
    with PeakMemory() as peak:
        evaluator.errors(q, k, v, gram, generator)
    tiles = {int(rank) // QUERY_TILE for rank in evaluator.ranks["spatial"][evaluator.sample_tokens(generator)]}
    dense = 4 * grid.tokens**2 * HEAD_DIM
    return {
        "grid": list(grid.shape), "tokens": grid.tokens, "head_dim": HEAD_DIM, "rows": rows,
        "candidates": len(candidates), "query_tiles_seen": len(tiles), "flops": counter.get_total_flops(),
        "fraction_of_dense": round(counter.get_total_flops() / dense, 5), "peak_bytes": peak.bytes,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, nargs=3, default=WAN_720P, help="tokens in time, height and width")
    parser.add_argument("--rows", type=int, default=256)
    args = parser.parse_args()
    if math.prod(args.grid) < QUERY_TILE or args.rows < 1:
        parser.error(f"--grid {args.grid} has to hold {QUERY_TILE} tokens, and --rows be at least 1")
    cost(TokenGrid(*GRID), args.rows)  # what torch loads at its first call is no part of it
    row = cost(TokenGrid(*args.grid), args.rows)
    print(row)
    print("Written to", results.save_results("profile_cost", [row]))


if __name__ == "__main__":
    main()
