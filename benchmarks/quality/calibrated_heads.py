"""Error against time of attention methods on heads as sparse as those of real models, at full size.

Random weights say nothing of quality, and no real checkpoint was at hand. So heads are made: as dense and of the kinds
that were published for Wan 2.1 14B and HunyuanVideo (`published_heads.py`), content and values as on the small Wan.
Both ends are measured, as heads that go by offsets alone flatter plans that are made ahead of time: `structure` has no
content, `content` as much of it as the tenth of the small Wan's heads that goes by it most.

    python -m benchmarks.quality.calibrated_heads fit            # content and values of the small Wan; CPU, minutes
    python -m benchmarks.quality.calibrated_heads verify         # densities of made heads at full size; CPU, minutes
    python -m benchmarks.quality.calibrated_heads measure        # error against time; needs a GPU
    python -m benchmarks.quality.calibrated_heads measure --continue benchmarks/results/calibrated_heads-....json
    python -m benchmarks.quality.calibrated_heads measure --device cpu --tiny     # tries the script

Writes benchmarks/results/calibrated_heads{_fit,_verify,}-<device>-<date>.json; `measure` also a picture.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sparse_vdit.kernels.grid import TokenGrid

from benchmarks.kernels.kernel_cases import Case
from benchmarks.kernels.kernel_methods import Method
from benchmarks.kernels.kernel_shapes import SHAPES, Shape
from benchmarks.kernels.timing import median_ms
from benchmarks.quality.error_methods import CHOSEN, ON_CPU, ONCE, make_cases
from benchmarks.quality.error_time import draw
from benchmarks.quality.head_generator import Content, make_head, make_heads, measured_density
from benchmarks.quality.published_heads import FOLDER, RECORDED, head_densities, typical_heads
from benchmarks.quality.small_wan_runs import MODEL
from benchmarks.quality.yardstick_content import measure_content
from benchmarks.report import results
from benchmarks.report.result_files import NO_TIME, kept_rows, newest_if_any

BENCHMARK = "calibrated_heads"
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
HEAVY = 0.9  # quantile of the small Wan's heads by content
DENSITIES = (0.05, 0.1, 0.15, 0.25, 0.35, 0.5)
TINY = Shape(TokenGrid(7, 13, 17, prefix=5, suffix=3), 3, 64)
TINY_DENSITIES = (0.3, 0.6)


def ends() -> dict[str, Content]:
    """Both ends of content, by the newest fit.

    Raises:
        FileNotFoundError: nothing was fitted yet.
    """
    result = newest_if_any(f"{BENCHMARK}_fit")
    if result is None:
        raise FileNotFoundError("content was not fitted yet: run python -m benchmarks.quality.calibrated_heads fit")
    found = {row["measure"]: row["heads"] for row in result["rows"]}
    alike = float(np.median(found["alike"]))
    return {"structure": Content(0.0, alike), "content": Content(float(np.quantile(found["share"], HEAVY)), alike)}


def quantiles(values: Sequence[float]) -> list[float]:
    """QUANTILES of heads, to four digits; of few heads that stand for many the same as of the many."""
    return [float(f"{value:.4g}") for value in np.quantile(values, QUANTILES, method="hazen")]


def fit(args: argparse.Namespace) -> list[dict]:
    """Content and values of the small Wan's heads."""
    found = measure_content(args.prompts)
    return [
        {"model": MODEL, "prompts": args.prompts, "measure": name, "quantiles": quantiles(heads), "heads": heads}
        for name, heads in found.items()
    ]


def verify(args: argparse.Namespace) -> list[dict]:
    """Quantiles of the densities of made heads beside those of the data, at full size."""
    rows = []
    for name in args.shapes:
        shape, wanted = SHAPES[name], quantiles(head_densities(args.data, RECORDED[name]).ravel())
        for end, content in ends().items():
            heads, checked = typical_heads(args.data, name, args.heads or shape.heads), []
            for number, head in enumerate(heads):
                generator = torch.Generator(args.device).manual_seed(number)
                q, k, _ = make_head(shape.grid, shape.head_dim, head, content, generator, torch.bfloat16)
                checked.append(measured_density(shape.grid, q, k))
            found, queries = zip(*checked, strict=True)
            made = quantiles(found)
            off = max(abs(a / b - 1) for a, b in zip(made, wanted, strict=True))
            worst = max(abs(a / head.density - 1) for a, head in zip(found, heads, strict=True))
            rows.append({
                "shape": name, "content": end, "share": content.share, "heads": len(heads),
                "queries": [min(queries), max(queries)], "published": wanted, "made": made,
                "worst_quantile": round(off, 4), "worst_head": round(worst, 4),
            })  # fmt: skip
            print(rows[-1], flush=True)
            results.save_results(f"{BENCHMARK}_verify", rows, args.device, unfinished=True)  # the rest takes minutes
    return rows


def measure(args: argparse.Namespace) -> list[dict]:
    """Error and time of every method, on heads of both ends."""
    deadline, rows = time.monotonic() + 60 * args.minutes, args.rows
    shapes = {"tiny": TINY} if args.tiny else {name: SHAPES[name] for name in args.shapes}
    device, dtype = torch.device(args.device), torch.float32 if args.tiny else torch.bfloat16
    for name, shape in shapes.items():
        heads = typical_heads(args.data, next(iter(RECORDED)) if args.tiny else name, shape.heads)
        for end, content in ends().items():
            todo = [job for job in jobs(args) if (name, end, *job) not in {key(row) for row in rows}]
            if not todo:
                continue
            known = {"shape": name, "content": end, "share": content.share, "tokens": shape.grid.tokens}
            wanted, cases = sorted({asked or args.densities[0] for _, asked in todo}), {}
            if time.monotonic() < deadline:
                cases = make_cases(shape, make_heads(shape, heads, content, device, dtype), wanted)
            for method, asked in todo:
                late = time.monotonic() > deadline
                found = {"skipped": NO_TIME} if late else attempt(cases[asked or wanted[0]], method, args.device)
                rows.append(known | {"method": method, "asked": asked} | found)
                print(rows[-1], flush=True)
                results.save_results(BENCHMARK, rows, args.device)
    return rows


def methods_on(device: str) -> dict[str, Method]:
    """What can be measured there."""
    return ON_CPU if device == "cpu" else CHOSEN


def jobs(args: argparse.Namespace) -> list[tuple[str, float | None]]:
    """Methods and the densities that they are asked for, in order; None of those that no density is asked of."""
    names = list(methods_on(args.device))
    once = [(name, None) for name in names if name in ONCE]
    return once + [(name, density) for density in args.densities for name in names if name not in ONCE]


def key(row: dict) -> tuple[str, str, str, float | None]:
    """What a row is about."""
    return row["shape"], row["content"], row["method"], row["asked"]


def attempt(case: Case, name: str, device: str) -> dict:
    """Error and time of a method on one case, or why there are none."""
    method = methods_on(device)[name]
    try:
        run, finish = method.make(case)
        milliseconds = median_ms(run, case.q.device)
        error = case.error(finish(run()), "dense")
    except Exception as found:  # other people's packages raise anything; the row says what
        return {"density": None, "skipped": f"{type(found).__name__}: {found}".split("\n")[0][:200]}
    kept = None if name in ONCE else round(case.density(method.truth or "lists"), 4)
    return {"density": kept, "ms": round(milliseconds, 4), "rel_l2_dense": float(f"{error:.3g}")}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fit", "verify", "measure"))
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default cuda to measure, else cpu")
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder of the published measurements")
    parser.add_argument("--shapes", nargs="+", choices=RECORDED, default=list(RECORDED))
    parser.add_argument("--prompts", type=int, default=4, help="of the small Wan, to fit")
    parser.add_argument("--heads", type=int, help="to verify, default as many as the model has in a layer")
    parser.add_argument("--densities", nargs="+", type=float)
    parser.add_argument("--minutes", type=float, default=8.0, help="no method is measured after so many")
    parser.add_argument("--continue", dest="earlier", type=Path, help="result file of `measure`; its rows are kept")
    parser.add_argument("--tiny", action="store_true", help="a toy of few tokens; its times mean nothing")
    parser.add_argument("--folder", type=Path, default=results.FOLDER, help="for the JSON and the picture")
    args = parser.parse_args()
    args.device = args.device or ("cuda" if args.what == "measure" else "cpu")
    args.densities = args.densities or (TINY_DENSITIES if args.tiny else DENSITIES)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; --device cpu --tiny tries the script")
    if args.what == "measure" and (args.device == "cpu") != args.tiny:
        parser.error("--device cpu and --tiny go together: full sizes take hours on a CPU")
    wrong = [density for density in args.densities if not 0 < density < 1]
    if wrong:
        parser.error(f"--densities {wrong[0]} is not above 0 and below 1")
    if args.prompts < 1 or (args.heads is not None and args.heads < 1):
        parser.error("--prompts and --heads have to be at least 1")
    if args.tiny and args.folder == results.FOLDER:
        args.folder = results.ROOT / "runs" / BENCHMARK  # a toy's figures are nothing to keep
    try:
        args.rows = kept_rows(args.earlier, BENCHMARK)
    except (OSError, ValueError) as error:
        parser.error(f"--continue: {error}")
    return args


def main() -> None:
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    results.FOLDER = results.ROOT / os.path.relpath(args.folder, results.ROOT)
    try:
        with torch.inference_mode():
            rows = {"fit": fit, "verify": verify, "measure": measure}[args.what](args)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    name = BENCHMARK if args.what == "measure" else f"{BENCHMARK}_{args.what}"
    file = (results.ROOT / results.save_results(name, rows, args.device)).resolve()
    if args.what == "measure":
        draw(rows, file.with_suffix(".png"))
    print("Written to", file)


if __name__ == "__main__":
    main()
