"""How long a call takes: the median of several runs, by CUDA's own events where there is a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

WARMUP, REPEATS, ROW_MS = 2, (2, 15), 1000.0  # runs that do not count; least and most that do; as many as fit in a row

Run = Callable[[], object]


def once(run: Run, device: torch.device) -> float:
    """Milliseconds of one run."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def median_ms(run: Run, device: torch.device) -> float:
    """Median of as many runs as ROW_MS has room for."""
    warm = [once(run, device) for _ in range(WARMUP)]
    repeats = max(REPEATS[0], min(REPEATS[1], int(ROW_MS / warm[-1])))
    return statistics.median(once(run, device) for _ in range(repeats))
