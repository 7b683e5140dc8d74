"""The torch backend on this CPU by kind of head, in fp32, beside dense attention of PyTorch on the same q, k and v.

Dense and sparse runs alternate, and the fastest of each counts. One thread is timed by the seconds that it computes, so
that other work on the machine hardly counts; several threads by the clock.

    python -m benchmarks.kernels.cpu_kinds --threads 1
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sparse_vdit.kernels.attention import run_call
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder, TileLists
from sparse_vdit.kernels.order import SPATIAL, SPATIOTEMPORAL
from sparse_vdit.kernels.patterns import Diagonal, MultiDiagonal, Routed, Union, VerticalStripe
from sparse_vdit.kernels.routing import routed_call
from sparse_vdit.plans.profile.candidates import FIRST_FRAME, LAST_FRAME

from benchmarks.kernels.kernel_cases import random_qkv
from benchmarks.kernels.kernel_shapes import Shape, build_lists
from benchmarks.report import results

SHAPE = Shape(TokenGrid(13, 24, 28), 4)
KINDS = {
    "diagonal": Diagonal(1),
    "multi-diagonal": MultiDiagonal(0.25, 0.15),
    "window": Diagonal(4, 0.2, 0.2, order=SPATIOTEMPORAL),
    "stripe": VerticalStripe((FIRST_FRAME, LAST_FRAME)),
    "union": Union((Diagonal(0), MultiDiagonal(0.05, 0.05, order=SPATIAL))),
    "routed": Routed(0.3),
    "routed, few": Routed(0.12),
}
MIXED = 0.3  # density of heads of several kinds, as a searched plan has them


def cases() -> dict[str, tuple[TileLists, tuple[int, ...]]]:
    """Lists, and the list of each head, by kind."""
    found = {}
    for name, pattern in KINDS.items():
        builder = TileListBuilder(SHAPE.grid)
        number = builder.add(pattern)
        found[name] = builder.build(), (number,) * SHAPE.heads
    lists, mixes, _ = build_lists(SHAPE, (MIXED,))
    return found | {"mix": (lists, mixes[MIXED])}


def fastest_ms(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The fastest of each, one after the other in turn after a run that does not count."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            taken[name].append((clock() - start) * 1e3)
    return {name: min(times[1:]) for name, times in taken.items()}


def measure(kind: str, call: AttentionCall, repeats: int) -> dict:
    """A row: times in ms, of choosing tiles alone too, and the share of dense time x density that is reached."""
    q, k, v = (x.transpose(1, 2) for x in (call.q, call.k, call.v))
    ms = fastest_ms(
        {
            "dense": lambda: F.scaled_dot_product_attention(q, k, v),
            "sparse": lambda: run_call(call, "torch"),
            "routing": lambda: routed_call(call),
        },
        repeats,
    )
    density = sum(call.lists.densities[number] for number in call.pair_lists) / len(call.pair_lists)
    return {
        "kind": kind, "tokens": SHAPE.grid.tokens, "heads": SHAPE.heads, "head_dim": SHAPE.head_dim,
        "density": round(density, 4), "dense_ms": round(ms["dense"], 1), "ms": round(ms["sparse"], 1),
        "routing_ms": round(ms["routing"], 1), "speed_up": round(ms["dense"] / ms["sparse"], 3),
        "of_ideal": round(ms["dense"] * density / ms["sparse"], 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    q, k, v = random_qkv(SHAPE, torch.device("cpu"), torch.float32)
    rows = []
    for kind, (lists, heads) in cases().items():
        rows.append(measure(kind, AttentionCall(q, k, v, lists, heads), args.repeats))
        print(rows[-1], flush=True)
    print("Written to", results.save_results("cpu_kinds", rows))


if __name__ == "__main__":
    main()
