"""The latency table that a search goes by, measured as Search Sparse Plan does, here beside PyTorch's dense attention.

Shows what a head takes by its density, with given and with chosen tiles, and how far launches of mixed heads are from
the sum of their heads.

    python -m benchmarks.kernels.latencies --device cuda                          # Wan 14B in 480p
    python -m benchmarks.kernels.latencies --device cpu --grid 9 18 22 --heads 6

Writes benchmarks/results/latencies-<device>-<date>.json.
"""

from __future__ import annotations

import argparse
import time

import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.tiling import KEY_TILE, QUERY_TILE
from sparse_vdit.plans.profile.candidates import default_candidates
from sparse_vdit.plans.profile.columns import ProfiledStripe
from sparse_vdit.plans.profile.profile import ProfileHeader
from sparse_vdit.plans.search.latency import Latencies, measure_latencies
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.quality.small_wan_runs import FAMILY
from benchmarks.report.results import device_name, save_results

DTYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}


def header(grid: tuple[int, int, int], heads: int, head_dim: int) -> ProfileHeader:
    """Of a profile on a grid of all candidates that have tiles before a head was profiled."""
    candidates = tuple(pattern for pattern in default_candidates() if not isinstance(pattern, ProfiledStripe))
    builder = TileListBuilder(TokenGrid(*grid))
    for pattern in candidates:
        builder.add(pattern)
    densities = builder.build().densities
    tiles = QUERY_TILE, KEY_TILE
    return ProfileHeader(FAMILY, "", 1, heads, head_dim, grid, *tiles, candidates, densities, ((1.0, 0.0),))


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's own."""
    return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))


def rows(table: Latencies, common: dict) -> list[dict]:
    """A row for each measured time; milliseconds of one head."""
    times = [("dense", 1.0, table.dense), ("skip", 0.0, table.skip)]
    times += [("static", *knot) for knot in table.static_knots] + [("routed", *knot) for knot in table.routed_knots]
    return [
        {
            **common,
            "method": method,
            "density": round(density, 4),
            "ms": float(f"{ms:.4g}"),
            "of_dense": ms / table.dense,
        }
        for method, density, ms in times
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=DTYPES, required=True)
    parser.add_argument("--grid", type=int, nargs=3, default=(21, 30, 52), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--heads", type=int, default=40)
    parser.add_argument("--head-dim", type=int, default=128)
    args = parser.parse_args()
    if min(*args.grid, args.heads, args.head_dim) < 1:
        parser.error("--grid, --heads and --head-dim are whole numbers of at least 1")
    head = header(tuple(args.grid), args.heads, args.head_dim)
    device = torch.device(args.device)
    begin = time.perf_counter()
    with torch.inference_mode():
        table = measure_latencies(head, device, DTYPES[args.device], dense, device_name(args.device))
    common = {"grid": head.grid, "heads": args.heads, "head_dim": args.head_dim}
    common |= {"seconds": round(time.perf_counter() - begin, 1), "deviation": round(table.deviation, 4)}
    found = rows(table, common)
    for row in found:
        part = row["ms"] / table.dense
        print(f"{row['method']:<7} density {row['density']:.4f}  {row['ms']:9.3f} ms  {part:.3f} of dense")
    told = f"launches differ from the sum of their heads by up to {table.deviation:.1%}"
    print(f"measured in {common['seconds']} s; {told}")
    print("Written to", save_results("latencies", found, args.device))


if __name__ == "__main__":
    main()
