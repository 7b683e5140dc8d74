"""What our attention's time goes to: kernels, distance to the device's limits, and the largest losses.

For each shape and density: the time of every kernel of a call, the time in which the host issues it, how near it is to
the roofline of the same device (a large matrix product and a copy, both measured here), and what it takes beyond the
best dense attention's time x density, told apart by leaving one thing out at a time.

    python -m benchmarks.kernels.profile_own_time
    python -m benchmarks.kernels.profile_own_time --device cpu --tiny      # tries the script; its times mean nothing

Writes benchmarks/results/profile_own_time-<device>-<date>.json; `tables.py` shows the newest beside the one before it.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from benchmarks.kernels.kernel_cases import Case, random_qkv
from benchmarks.kernels.kernel_shapes import SHAPES, TINY, build_lists
from benchmarks.kernels.losses import dense_times, limits, profile_row
from benchmarks.report import results

BENCHMARK = "profile_own_time"
DENSITIES = (0.15, 0.25, 0.35)
BEST = ("fa3", "sdpa_cudnn", "sdpa_flash", "sdpa")
OWN = {"cuda": ("ours_bf16", "ours_int8", "ours_routed"), "cpu": ("ours_torch",)}


def profile_shape(name: str, args: argparse.Namespace, deadline: float) -> list[dict]:
    """Rows of one shape."""
    shape, device = (SHAPES | TINY)[name], torch.device(args.device)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    peak, rows, dense = limits(device, dtype), [], {}
    lists, mixes, routed = build_lists(shape, (1.0, *args.densities))
    qkv, lists = random_qkv(shape, device, dtype), lists.to(device)
    known = {"shape": name, "tokens": shape.grid.tokens, "heads": shape.heads, "head_dim": shape.head_dim}
    known |= {"peak_flops": float(f"{peak[0]:.4g}"), "peak_bytes": float(f"{peak[1]:.4g}")}
    for density, online in zip(args.densities, routed[1:], strict=True):
        case = Case(*qkv, lists, mixes[density], online, mixes[1.0][0])
        for method in args.methods:
            row = known | {"method": method, "asked_density": density}
            try:
                if time.monotonic() > deadline:
                    raise TimeoutError("no time left, allow more --minutes")
                if method not in dense:
                    dense[method] = dense_times(case, BEST, method)
                row |= profile_row(case, method, dense[method], peak)
            except Exception as error:  # what a device cannot run, the row says
                row |= {"skipped": f"{type(error).__name__}: {error}".split("\n")[0][:200]}
            rows.append(row)
            print(describe(row), flush=True)
    return rows


def describe(row: dict) -> str:
    """One line of a row."""
    head = f"{row['shape']:14} {row['method']:12} {row['asked_density']:.2f}"
    if "skipped" in row:
        return f"{head}  skipped: {row['skipped']}"
    lost = ", ".join(f"{name} {row['losses'][name]:.3f}" for name in row["largest"])
    return (
        f"{head}  {row['ms']:.3f} ms, ideal {row['ideal_ms']:.3f}, {row['fraction_of_roofline']:.0%} of limit; {lost}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="no row begins after so many")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--densities", nargs="+", type=float, default=list(DENSITIES))
    parser.add_argument("--tiny", action="store_true", help="a toy of few tokens; its times mean nothing")
    parser.add_argument("--folder", type=Path, default=results.FOLDER, help="for the JSON")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; --device cpu --tiny tries the script")
    if args.device == "cpu" and not args.tiny:
        parser.error("--device cpu goes with --tiny alone: full sizes take hours on a CPU")
    wrong = [density for density in args.densities if not 0 < density < 1]
    if wrong:
        parser.error(f"--densities {wrong[0]} is not above 0 and below 1")
    if args.tiny and args.folder == results.FOLDER:
        args.folder = results.ROOT / "runs" / BENCHMARK  # a toy's figures are nothing to keep
    args.shapes, args.methods = list(TINY) if args.tiny else args.shapes or list(SHAPES), OWN[args.device]
    return args


def main() -> None:
    args, rows = arguments(), []
    deadline = time.monotonic() + 60 * args.minutes
    args.folder.mkdir(parents=True, exist_ok=True)
    results.FOLDER = results.ROOT / os.path.relpath(args.folder, results.ROOT)
    with torch.inference_mode():
        for name in args.shapes:
            rows += profile_shape(name, args, deadline)
            file = results.save_results(BENCHMARK, rows, args.device)
    print("Written to", (results.ROOT / file).resolve())


if __name__ == "__main__":
    main()
