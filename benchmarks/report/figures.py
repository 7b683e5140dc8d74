"""Makes pictures of docs/images: the patterns, the small Wan's videos, loss and quality, a searched plan, the banner.

    python -m benchmarks.report.figures [patterns | samples | loss | quality | methods | plan | icons] [--plan FILE]
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Skip, VerticalStripe
from sparse_vdit.plans.plan.files import PlanError, load_plan
from sparse_vdit.plans.plan.plan import Plan
from sparse_vdit.plans.view.colours import COLOURS, head_cell
from sparse_vdit.plans.view.drawing import draw_plan
from sparse_vdit.plans.view.pictures import GREY, INK, PAPER, stack, text_block

from benchmarks.quality.small_wan_runs import KEY_TILE, QUERY_TILE, ROOT, WEIGHTS, generate, load_model, random_scene
from benchmarks.report.pattern_pictures import draw_pattern
from benchmarks.report.pictures import contact_sheet, plot, side_by_side
from benchmarks.report.plan_tables import BESIDE, METHODS, methods_by_density
from benchmarks.report.tables import QUALITY, newest

DOCS = ROOT / "docs" / "images"
SAMPLE_SEED, SAMPLES = 9101, 6
ICON_SEED = 5
BANNER = (1260, 540)  # 21:9
ALL = ["patterns", "samples", "loss", "quality", "methods", "plan", "icons"]
LARGE_GRID = (13, 24, 28)  # as large as the model was trained on: 8,736 tokens
QUALITY_NAMES = {
    "ours_budget": "searched, one error budget",
    "ours_paper": "searched, paper's rule",
    "uniform": "one pattern for all heads, of several kinds",
}


def draw_patterns() -> None:
    """One picture per kind on a small grid, three in a row, as wide as a page."""
    grid = TokenGrid(4, 6, 8, prefix=16)
    kinds = (
        (Dense(), "all tokens"),
        (Skip(), "text only"),
        (Diagonal(0), "the query's own frame"),
        (MultiDiagonal(0.0, 0.0), "the same place in all frames"),
        (VerticalStripe(), "the first frame, for every query"),
    )
    panels = [Image.fromarray(draw_pattern(pattern, grid, 16, 8, words)) for pattern, words in kinds]
    rows = [stack(panels[start : start + 3], across=True, gap=0) for start in (0, 3)]
    stack(rows, gap=0).save(DOCS / "patterns.png", optimize=True)


def draw_samples() -> None:
    """A contact sheet of dense videos of the small Wan, the same as an animation, and two of its largest videos."""
    scenes = [random_scene(torch.Generator().manual_seed(SAMPLE_SEED + n)) for n in range(SAMPLES)]
    videos, _ = generate(load_model(), scenes, None, seed=11)
    rows = {str(scene): video for scene, video in zip(scenes, videos, strict=True)}
    contact_sheet(rows, DOCS / "small_wan.webp")
    side_by_side({f"{n + 1}": video for n, video in enumerate(videos)}, DOCS / "small_wan_moving.webp")
    large = [random_scene(torch.Generator().manual_seed(SAMPLE_SEED + SAMPLES + n), most_objects=3) for n in range(2)]
    videos, _ = generate(load_model(), large, None, seed=12, grid=LARGE_GRID)
    side_by_side(dict(zip(map(str, large), videos, strict=True)), DOCS / "small_wan_large.webp")


def draw_loss() -> None:
    """The loss curve of the shipped weights, of all stages in a row."""
    series, before = {}, 0.0
    for name, file in {"simpler videos": "loss_first_stages.csv", "videos as now": "loss.csv"}.items():
        with open(WEIGHTS.with_name(file), newline="") as lines:
            series[name] = [(before + float(row["step"]), float(row["loss"])) for row in csv.DictReader(lines)]
        before = series[name][-1][0]
    plot(series, ("training step", "flow-matching loss, mean of 50 steps"), DOCS / "loss.png", log=True)


def draw_quality() -> None:
    """PSNR over density of everything in the newest result of quality.py."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in newest("quality", QUALITY)["rows"]:
        if "psnr" in row:
            name = QUALITY_NAMES[row["method"]] + ("" if row["warmup"] else ", no warm-up")
            series.setdefault(name, []).append((row["density"], row["psnr"]))
    joined = {name: sorted(points) for name, points in series.items()}
    labels = "mean attention density after the warm-up", "PSNR against the dense video, dB"
    plot(joined, labels, DOCS / "quality.png", loose=[QUALITY_NAMES["uniform"]])  # a line would join different kinds


def draw_methods() -> None:
    """PSNR over density of every method in the comparisons of plans.py, the best for each wanted density."""
    series: dict[str, list[tuple[float, float]]] = {}
    for (method, _), rows in methods_by_density().items():
        name = METHODS.get("ours_budget" if method.startswith(BESIDE) else method)
        if name is None:  # a method that the pack no longer has
            continue
        best = max(rows, key=lambda row: row["psnr"])
        series.setdefault(name, []).append((best["density"], best["psnr"]))
    joined = {name: sorted(points) for name, points in series.items()}
    plot(joined, ("attention density after the warm-up", "PSNR against the dense video, dB"), DOCS / "methods.png")


def draw_the_plan(plan: Plan, video: Path) -> None:
    """Map of a plan that the demo searched on the small Wan, and its videos, dense and sparse."""
    if video.exists():
        shutil.copyfile(video, DOCS / "dense_sparse.webp")
    Image.fromarray(draw_plan(plan, QUERY_TILE, KEY_TILE)).save(DOCS / "plan.png", optimize=True)


def draw_icons() -> None:
    """Icon and banner of the registry: a made-up map of heads, on the banner with a title."""
    made_up_heads(4, 4, 100).save(DOCS / "icon.png", optimize=True)
    title = text_block([("Sparse-vDiT", 100, INK), ("for ComfyUI", 56, GREY)])
    words = text_block([("Each attention head of a video model", 36, INK), ("computes only what it needs.", 36, INK)])
    canvas = Image.new("RGB", BANNER, PAPER)
    canvas.paste(stack([title, words], gap=40), (60, 120))
    heads = made_up_heads(9, 9, 60)
    canvas.paste(heads, (BANNER[0] - heads.width, 0))
    canvas.save(DOCS / "banner.png", optimize=True)


def made_up_heads(rows: int, columns: int, cell: int) -> Image.Image:
    """Heads of all kinds and densities."""
    draw = random.Random(ICON_SEED)
    kinds = [[draw.choice(list(COLOURS)) for _ in range(columns)] for _ in range(rows)]
    cells = [[head_cell(kind, draw.uniform(0.1, 1), cell - 4) for kind in row] for row in kinds]
    framed = [[np.pad(x, ((2, 2), (2, 2), (0, 0)), constant_values=255) for x in row] for row in cells]
    return Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in framed]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", default=ALL)
    words = "of the demo, for the plan's picture and the videos next to it"
    parser.add_argument("--plan", type=Path, default=ROOT / "runs" / "demo" / "plan.json", help=words)
    args = parser.parse_args()
    DOCS.mkdir(exist_ok=True)

    makers = {"patterns": draw_patterns, "samples": draw_samples, "loss": draw_loss, "quality": draw_quality}
    makers |= {"methods": draw_methods, "icons": draw_icons}
    unknown = [name for name in args.which if name not in (*makers, "plan")]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of {', '.join(makers)}, plan")
    if "plan" in args.which:
        try:
            plan = load_plan(args.plan)
        except (PlanError, OSError) as error:
            parser.error(f"--plan {args.plan} cannot be drawn: {error}; `python3 dev.py demo` makes one that can")
        makers["plan"] = lambda: draw_the_plan(plan, args.plan.with_name("side_by_side.webp"))
    for name in args.which:
        makers[name]()
        print("Made", name)


if __name__ == "__main__":
    main()
