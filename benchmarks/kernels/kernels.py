"""Attention kernels side by side on one GPU: dense ones, other sparse ones and ours, on the same q, k and v.

Heads get a mix of patterns, as a searched plan has, at each density; the data are random and resemble themselves from
place to place, as a video does. Times are medians after two runs. Writes
benchmarks/results/kernels-<device>-<date>.json and a picture beside it.

    python -m benchmarks.kernels.kernels
    python -m benchmarks.kernels.kernels --device cpu             # the torch backend in fp32, 8,192 tokens
    python -m benchmarks.kernels.kernels --device cpu --quick     # the whole path on a tiny shape
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.kernels.kernel_cases import Case, random_qkv
from benchmarks.kernels.kernel_methods import METHODS, Finish, Method, Run
from benchmarks.kernels.kernel_shapes import CPU, SHAPES, TINY, Shape, build_lists
from benchmarks.kernels.timing import median_ms
from benchmarks.report import results
from tools.schedule import imbalance

DENSITIES = (1.0, 0.2, 0.3, 0.1, 0.5)  # dense first: every other is measured against it
SHOWN = {
    "ms": "ms", "tflops_kept": "TFLOP/s", "fraction_of_best_dense": "of dense", "fraction_of_ideal": "of ideal",
    "rel_l2": "error", "rel_l2_dense": "to dense", "extra_bytes_fraction": "memory", "imbalance": "imbalance",
}  # fmt: skip  # fields of a row and their headings
CPU_DENSITIES = (1.0, 0.25)
ON_CPU = ("sdpa", "ours_torch")
GPU_ONLY = [name for name in METHODS if name.startswith("ours_") and name != "ours_torch"]
NO_TIME = {"skipped": "no time left, allow more --minutes"}
COLOURS = ("#0b6e4f", "#d1495b", "#2e86ab", "#edae49", "#6a4c93", "#8d6a9f", "#444444", "#3bb273", "#e15554", "#7768ae")


def extra_bytes(run: Run, finish: Finish, device: torch.device) -> tuple[Tensor, int | None]:
    """The finished output, and the memory a run takes at its peak beside inputs and output; None without a GPU."""
    if device.type != "cuda":
        return finish(run()), None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    raw = run()
    peak, out = torch.cuda.max_memory_allocated(), finish(raw)
    return out, max(0, peak - before - out.nbytes)


def measure(case: Case, method: Method) -> dict:
    """The measured fields of a row."""
    device = case.q.device
    run, finish = method.make(case)
    ms = median_ms(run, device)
    out, extra = extra_bytes(run, finish, device)
    density = case.density(method.truth or "lists")
    flops = 4 * case.q.shape[1] ** 2 * case.q.shape[2] * case.q.shape[3] * density
    return {
        "density": round(density, 4), "ms": round(ms, 4), "tflops_kept": float(f"{flops / ms / 1e9:.4g}"),
        "rel_l2": None if method.truth is None else float(f"{case.error(out, method.truth):.3g}"),
        "rel_l2_dense": float(f"{case.error(out, 'dense'):.3g}"),
        "extra_bytes_fraction": None if extra is None else round(extra / (3 * case.q.nbytes), 4),
        "prepare_ms": None if method.prepare is None else round(median_ms(method.prepare(case), device), 4),
    }  # fmt: skip


def attempt(case: Case, name: str, workers: int | None) -> dict:
    """A row's fields, or why there are none."""
    method = METHODS[name]
    try:
        row = measure(case, method)
    except Exception as error:  # other people's packages raise anything; the row says what
        return {
            "density": round(case.density(method.truth or "lists"), 4),
            "skipped": f"{type(error).__name__}: {error}".split("\n")[0][:200],
            "missing": isinstance(error, ImportError),
        }
    if workers and name.startswith("ours_") and name != "ours_torch":
        row["imbalance"] = round(imbalance(case.lists, case.numbers(method.truth), workers), 4)
    with suppress(PackageNotFoundError):
        row |= {"version": version(method.package)} if method.package else {}
    return row


def compare(rows: list[dict]) -> None:
    """Fill the fractions of one shape's rows in: of the best dense rate, and of the ideal, own dense time x density."""
    measured = [row for row in rows if "ms" in row]
    dense = {row["method"]: row for row in measured if row["density"] == 1}
    best = max((row["tflops_kept"] for method, row in dense.items() if METHODS[method].best), default=None)
    fastest = min((row["ms"] for method, row in dense.items() if METHODS[method].best), default=None)
    for row in measured:
        own = dense.get(METHODS[row["method"]].ideal or row["method"])
        row["fraction_of_best_dense"] = round(row["tflops_kept"] / best, 4) if best else None
        if fastest and row.get("prepare_ms") is not None:
            row["prepare_fraction_of_dense"] = round(row["prepare_ms"] / fastest, 4)
        row["fraction_of_ideal"] = round(own["ms"] * row["density"] / row["ms"], 4) if own else None


def measure_shape(name: str, shape: Shape, args: argparse.Namespace, deadline: float) -> list[dict]:
    """Rows of one shape, all methods at one density before the next, until the deadline."""
    device, cuda = torch.device(args.device), args.device.startswith("cuda")
    lists, mixes, routed = build_lists(shape, args.densities)
    q, k, v = random_qkv(shape, device, torch.bfloat16 if cuda else torch.float32)
    workers = torch.cuda.get_device_properties(device).multi_processor_count if cuda else None
    known = {"shape": name, "tokens": shape.grid.tokens, "heads": shape.heads, "head_dim": shape.head_dim}
    rows, failed = [], set()
    for density, online in zip(args.densities, routed, strict=True):
        case = Case(q, k, v, lists.to(device), mixes[density], online, mixes.get(1.0, (0,))[0])
        for method in args.methods:
            if method in failed or (METHODS[method].truth == "dense" and density < 1):
                continue
            late = time.monotonic() > deadline
            asked = {"method": method, "asked_density": density}
            rows.append(known | asked | (NO_TIME if late else attempt(case, method, workers)))
            rows[-1].setdefault("density", round(case.density(METHODS[method].truth or "lists"), 4))
            print(describe(rows[-1]), flush=True)
            if rows[-1].pop("missing", False):
                failed.add(method)
            if cuda:
                torch.cuda.empty_cache()
    return rows


def describe(row: dict) -> str:
    """One line of the table, its columns those of SHOWN."""
    head = f"{row['shape']:14}{row['method']:25}{row['density']:8.3f}"
    if "skipped" in row:
        return f"{head}  skipped: {row['skipped']}"
    return head + "".join(f"{row[name]:11.4g}" if row.get(name) is not None else f"{'-':>11}" for name in SHOWN)


def draw(rows: list[dict], file: Path) -> None:
    """One panel per shape: time over the best dense time against density; the ideal is the grey diagonal."""
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    shown = [row for row in rows if row.get("fraction_of_best_dense")]
    methods = list(dict.fromkeys(row["method"] for row in shown))
    size, margin, most = 320, 44, 1.5
    canvas = Image.new("RGB", (max(1, len(shapes)) * (size + margin) + margin, size + 3 * margin), "white")
    pen = ImageDraw.Draw(canvas)
    for number, shape in enumerate(shapes):
        left, bottom = margin + number * (size + margin), size + margin

        def at(density: float, share: float, left: int = left, bottom: int = bottom) -> tuple[float, float]:
            return left + density * size, bottom - min(share, most) / most * size

        pen.rectangle([left, margin, left + size, bottom], outline="black")
        pen.line([at(0, 0), at(1, 1)], fill="#bbbbbb", width=2)
        pen.text((left, margin - 14), f"{shape}: time / best dense time, by density", fill="black")
        for share in (0, 0.5, 1):
            pen.text((left - 24, at(0, share)[1] - 6), f"{share:g}", fill="black")
            pen.text((at(share, 0)[0] - 8, bottom + 4), f"{share:g}", fill="black")
        for method in methods:
            places = sorted(
                at(row["density"], row["density"] / row["fraction_of_best_dense"])
                for row in shown if (row["shape"], row["method"]) == (shape, method)
            )  # fmt: skip
            colour = COLOURS[methods.index(method) % len(COLOURS)]
            pen.line(places, fill=colour, width=2)
            for x, y in places:
                pen.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
    for number, method in enumerate(methods):
        row, column = divmod(number, max(1, canvas.width // 170))
        place = (margin + column * 160, size + margin + 22 + row * 14)
        pen.text(place, method, fill=COLOURS[number % len(COLOURS)])
    canvas.save(file)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=7.5, help="no row begins after so many, shared by the shapes")
    parser.add_argument("--quick", action="store_true", help="one tiny shape")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES | CPU)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--densities", type=float, nargs="+", help=f"default {DENSITIES}, on a CPU {CPU_DENSITIES}")
    parser.add_argument("--folder", type=Path, default=results.FOLDER, help="for the JSON and the picture")
    args = parser.parse_args()
    if args.device.split(":")[0] not in ("cpu", "cuda"):
        parser.error(f"--device {args.device} is neither cpu nor cuda")
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; --device cpu measures the torch backend")
    wrong = [density for density in args.densities or () if not 0 < density <= 1]
    if wrong:
        parser.error(f"--densities {wrong[0]} is not above 0 and up to 1")
    on_gpu = [method for method in args.methods or () if method in GPU_ONLY]
    if args.device == "cpu" and on_gpu:
        parser.error(f"--methods {' '.join(on_gpu)} need a GPU")
    if args.quick and args.folder == results.FOLDER:
        args.folder = results.ROOT / "runs" / "kernels"  # a toy's figures are nothing to keep
    args.methods = args.methods or [n for n in METHODS if (n in ON_CPU) == (args.device == "cpu")]
    usual = DENSITIES if args.quick or args.device != "cpu" else CPU_DENSITIES
    args.densities = tuple(dict.fromkeys((1.0, *(args.densities or usual))))
    return args


def main() -> None:
    args, rows, file = arguments(), [], None
    args.folder.mkdir(parents=True, exist_ok=True)
    results.FOLDER = results.ROOT / os.path.relpath(args.folder, results.ROOT)
    known = TINY if args.quick else CPU if args.device == "cpu" else SHAPES
    chosen = {name: (SHAPES | CPU)[name] for name in args.shapes} if args.shapes else known
    start = time.monotonic()
    for number, (name, shape) in enumerate(chosen.items(), 1):  # what a shape leaves of its share serves the next
        found = measure_shape(name, shape, args, start + args.minutes * 60 * number / len(chosen))
        compare(found)
        rows += found
        if any("ms" in row for row in rows):  # after every shape, as a run may be cut short
            file = (results.ROOT / results.save_results("kernels", rows, args.device)).resolve()
    if file is None:
        late = any(row.get("skipped") == NO_TIME["skipped"] for row in rows)
        raise SystemExit("nothing was measured in time" if late else "no method ran, for the reasons above")
    print(f"{'':47}" + "".join(f"{heading:>11}" for heading in SHOWN.values()), *map(describe, rows), sep="\n")
    draw(rows, file.with_suffix(".png"))
    print("Written to", file)


if __name__ == "__main__":
    main()
