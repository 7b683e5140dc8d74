"""The main job, without ComfyUI or GPU: profile a small Wan, search a plan, generate dense and sparse, compare.

Heads are measured on one scene. The plan is used for another one, which `choose_scene.py` chose from many seeds by how
like its words the dense video is. Both videos begin with the same noise, and their steps alternate.

    python3 dev.py demo             1,620 tokens, tiles in proportion; two minutes on two cores
    python3 dev.py demo --large     8,736 tokens and the kernels' own tiles: shows what sparse attention gains in time

Writes into --out: report.html (begin with it), side_by_side.webp, plan.png, plan.json, demo_result.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
from PIL import Image
from small_wan.model import SmallWan, dense_attention
from small_wan.sample import guided, sigma_schedule
from small_wan.video import Scene, encode, to_video
from sparse_vdit.kernels import tiling
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.plans.plan.files import save_plan
from sparse_vdit.plans.plan.plan import Plan
from sparse_vdit.plans.search.search import SearchError, search_budget
from sparse_vdit.plans.view.comparison import heat_map
from sparse_vdit.plans.view.drawing import draw_plan
from sparse_vdit.plans.view.metrics import psnr, ssim, together
from torch import Tensor

from benchmarks.quality import small_wan_runs as runs
from benchmarks.report.choose_scene import NOISE_SEED, scene_of
from benchmarks.report.demo_page import write_page
from benchmarks.report.pictures import side_by_side

RESULTS = ("report.html", "side_by_side.webp", "plan.png", "plan.json", "demo_result.json")
PROFILE_SEED = 501
SCENE_SEED = 63  # as `choose_scene.py` says
GAIN = 4.0  # of the difference that is shown
FASTER = 1.05  # times; what is less is no gain


@dataclass(frozen=True)
class Size:
    """Token grid of the videos, (query tile, key tile), steps, density of the plan."""

    grid: tuple[int, int, int]
    tiles: tuple[int, int]
    steps: int
    density: float


SMALL = Size(runs.GRID, (runs.QUERY_TILE, runs.KEY_TILE), runs.STEPS, 0.5)
LARGE = Size((13, 24, 28), (tiling.QUERY_TILE, tiling.KEY_TILE), 12, 0.35)


class Stage:
    """Progress of a stage: a bar on a terminal, else one line, which its time ends."""

    def __init__(self, title: str, total: int):
        self.title, self.total, self.done, self.start = title, total, 0, time.perf_counter()
        self.show()

    def step(self) -> None:
        self.done += 1
        self.show()

    def show(self) -> None:
        seconds, ended = time.perf_counter() - self.start, self.done == self.total
        if sys.stdout.isatty():
            filled = 30 * self.done // self.total
            bar = "#" * filled + "." * (30 - filled)
            counts = f"{self.done}/{self.total}  {seconds:5.1f} s"
            print(f"\r{self.title:<32} [{bar}] {counts}", end="\n" * ended, flush=True)
        elif not self.done:
            print(f"{self.title}: ", end="", flush=True)
        elif ended:
            print(f"{seconds:.1f} s", flush=True)


@dataclass(frozen=True)
class Pair:
    """Videos (frames, H, W, 3) in 0..1, seconds of each step, and attention calls of the sparse one."""

    dense: Tensor
    sparse: Tensor
    dense_seconds: list[float]
    sparse_seconds: list[float]
    calls: Counter[str]


@torch.inference_mode()
def generate_both(model: SmallWan, scene: Scene, plan: Plan, size: Size, stage: Stage) -> Pair:
    """A dense and a sparse video of a scene, step by step in turn, so that both meet the same load of the machine."""
    frames, height, width = size.grid
    context, calls = encode([scene]), Counter()
    by_plan = runs.plan_attention(plan, calls, size.tiles)
    noise = torch.randn(1, 16, frames, 2 * height, 2 * width, generator=torch.Generator().manual_seed(NOISE_SEED))
    latents, seconds = [noise, noise], ([], [])
    for sigma, following in itertools.pairwise(sigma_schedule(size.steps).tolist()):
        for number, hook in enumerate((dense_attention, by_plan(sigma))):
            start = time.perf_counter()
            velocity = guided(model, latents[number], sigma, context, hook)
            latents[number] = latents[number] + (following - sigma) * velocity
            seconds[number].append(time.perf_counter() - start)
            stage.step()
    dense, sparse = ((to_video(latent)[0].permute(1, 2, 3, 0) + 1) / 2 for latent in latents)
    return Pair(dense, sparse, *seconds, calls)


def result_of(pair: Pair, plan: Plan, scene: Scene, size: Size) -> dict:
    """What the demo found, for the page, the lines and the file."""
    warm = runs.warmup_steps(size.steps)
    density = plan.density(TokenGrid(*size.grid), *size.tiles)
    calls = sum(pair.calls.values())
    return {
        "scene": str(scene), "grid": list(size.grid), "steps": size.steps, "dense_steps": warm, "density": density,
        "psnr": together(psnr(pair.dense, pair.sparse)), "ssim": ssim(pair.dense, pair.sparse).mean().item(),
        "calls": calls, "sparse_calls": pair.calls["sparse"],
        "work_saved": (1 - density) * (size.steps - warm) / size.steps,
        "dense_step_seconds": statistics.median(pair.dense_seconds[warm:]),
        "sparse_step_seconds": statistics.median(pair.sparse_seconds[warm:]),
    }  # fmt: skip


def lines_of(result: dict, folder: Path, large: bool) -> list[str]:
    """What the demo says at its end."""
    dense, sparse = result["dense_step_seconds"], result["sparse_step_seconds"]
    count = result["steps"] - result["dense_steps"]
    steps = f"a sparse step took {sparse:.2f} s, a dense one {dense:.2f} s (medians of {count} steps in turn)"
    if dense >= FASTER * sparse:
        gain = f"{dense / sparse:.2f} times as fast on this CPU."
    else:
        gain = "not faster on this CPU." if large else "not faster, as expected of so short a clip."
    more = "" if large else " A longer clip gains time: `python3 dev.py demo --large`."
    time_line = f"Time: {steps}: {gain}{more}"
    return [
        f"Distance: {result['psnr']:.1f} dB PSNR, SSIM {result['ssim']:.3f} between the sparse and the dense video. "
        "More is closer; from 35 dB on they are hard to tell apart.",
        f"Work: {result['work_saved']:.0%} of all attention was not computed. The plan has density "
        f"{result['density']:.2f}.",
        f"Calls: {result['sparse_calls']} of {result['calls']} attention calls ran sparse. The first "
        f"{result['dense_steps']} of {result['steps']} steps are dense.",
        time_line,
        f"Files: open {(folder / RESULTS[0]).as_posix()}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="dev.py demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", action="store_true", help="a longer video, with the kernels' own tiles; minutes")
    parser.add_argument("--out", type=Path, help="folder for the results (default: runs/demo, runs/demo-large)")
    words = f"of attention outside the dense start (default: {SMALL.density}, with --large {LARGE.density})"
    parser.add_argument("--density", type=float, help=words)
    parser.add_argument("--steps", type=int, help=f"default: {SMALL.steps}, with --large {LARGE.steps}")
    args = parser.parse_args()
    size = LARGE if args.large else SMALL
    steps = size.steps if args.steps is None else args.steps
    density = size.density if args.density is None else args.density
    if not 0 < density <= 1:
        parser.error(f"--density is {density}, expected above 0 and at most 1")
    if not runs.MIN_STEPS <= steps <= 1000:
        parser.error(f"--steps is {steps}, expected {runs.MIN_STEPS} to 1000")
    folder = args.out or runs.ROOT / "runs" / ("demo-large" if args.large else "demo")
    prepare_folder(folder)
    try:
        run(Size(size.grid, size.tiles, steps, density), folder, args.large)
    except SearchError as error:
        parser.error(str(error))


def run(size: Size, folder: Path, large: bool) -> None:
    """Profile, search, generate, write.

    Raises:
        SearchError: no plan has this density.
    """
    model, stage = runs.load_model(), Stage("Measuring heads on one scene", size.steps)
    profile = runs.profile_scenes(
        model, [scene_of(PROFILE_SEED)], steps=size.steps, grid=size.grid, tiles=size.tiles, on_step=stage.step
    )
    plan, scene = search_budget(profile, density=size.density), scene_of(SCENE_SEED)
    stage = Stage("Generating, dense and sparse", 2 * size.steps)
    pair = generate_both(model, scene, plan, size, stage)
    result = result_of(pair, plan, scene, size)

    (folder / RESULTS[-1]).touch()  # first, so that a demo that is stopped here can be run again
    shown = {"dense": pair.dense, f"sparse, density {result['density']:.2f}": pair.sparse}
    difference = heat_map(pair.dense, pair.sparse, GAIN)
    side_by_side({**shown, f"difference x {GAIN:.0f}": difference}, folder / "side_by_side.webp", 2 if large else 4)
    Image.fromarray(draw_plan(plan, *size.tiles)).save(folder / "plan.png")
    save_plan(plan, folder / "plan.json", overwrite=True)
    lines = lines_of(result, folder, large)
    write_page(folder, result, lines)
    (folder / RESULTS[-1]).write_text(json.dumps(result, indent=1) + "\n")
    print("", *lines, sep="\n")


def prepare_folder(folder: Path) -> None:
    """Make the folder for the results; only what an earlier demo wrote is written over.

    Exits with a message when files of these names lie there that no demo made.
    """
    taken = [name for name in RESULTS if (folder / name).exists()]
    if taken and not (folder / RESULTS[-1]).exists():
        sys.exit(f"{folder} has a {taken[0]} that is not of this demo: choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"{folder} cannot be made a folder ({error.strerror}): choose another with --out")


if __name__ == "__main__":
    main()
