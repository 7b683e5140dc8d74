"""The main job, without ComfyUI or GPU: profile a small Wan, search a plan, generate dense and sparse, compare.

Writes into --out: side_by_side.webp, plan.png, plan.json, profile.safetensors, demo_result.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
from PIL import Image
from sparse_vdit.plans.plan.files import save_plan
from sparse_vdit.plans.profile.profile_files import save_profile
from sparse_vdit.plans.search.search import SearchError, search_budget
from sparse_vdit.plans.view.drawing import draw_plan
from sparse_vdit.plans.view.metrics import psnr, ssim, together

from benchmarks.quality.small_wan_runs import (
    FAMILY,
    GRID,
    KEY_TILE,
    MIN_STEPS,
    QUERY_TILE,
    ROOT,
    STEPS,
    WARMUP,
    generate,
    load_model,
    profile_scenes,
    random_scene,
)
from benchmarks.report.pictures import side_by_side

RESULTS = ("side_by_side.webp", "plan.png", "plan.json", "profile.safetensors", "demo_result.json")
PROFILE_SEED, PROMPT_SEED = 501, 60  # scenes of the profile, and a scene it has not seen


class Progress:
    """A progress bar on one line."""

    def __init__(self, title: str, total: int):
        self.title, self.total, self.done, self.start = title, total, 0, time.perf_counter()
        self.show()

    def step(self) -> None:
        self.done += 1
        self.show()

    def show(self) -> None:
        filled = 30 * self.done // self.total
        seconds = time.perf_counter() - self.start
        end = "\n" if self.done == self.total else ""
        bar = "#" * filled + "." * (30 - filled)
        print(f"\r{self.title:<34} [{bar}] {self.done}/{self.total}  {seconds:5.1f} s", end=end, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="dev.py demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "demo", help="folder for the results")
    parser.add_argument("--density", type=float, default=0.35, help="mean attention density outside the warm-up")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=5, help="of the noise; the same for both videos")
    args = parser.parse_args()
    if not 0 < args.density <= 1:
        parser.error(f"--density is {args.density}, expected above 0 and at most 1")
    if not MIN_STEPS <= args.steps <= 1000:
        parser.error(f"--steps is {args.steps}, expected {MIN_STEPS} to 1000")
    prepare_folder(args.out)
    model = load_model()

    scenes = [random_scene(torch.Generator().manual_seed(PROFILE_SEED + n)) for n in range(2)]
    bar = Progress("Profiling heads on two prompts", 2 * args.steps)
    profile = profile_scenes(model, scenes, steps=args.steps, on_step=bar.step)
    try:
        plan = search_budget(profile, density=args.density)
    except SearchError as error:
        parser.error(str(error))
    counts = ", ".join(f"{count} {kind}" for kind, count in plan.counts().items() if count)
    print(f"Plan over {len(plan.bands)} bands x {plan.layers} layers x {plan.heads} heads: {counts}")

    scene = random_scene(torch.Generator().manual_seed(PROMPT_SEED))
    bar = Progress("Generating, dense", args.steps)
    dense, dense_run = generate(model, [scene], None, args.seed, args.steps, on_step=bar.step)
    bar = Progress("Generating, sparse", args.steps)
    sparse, sparse_run = generate(model, [scene], plan, args.seed, args.steps, on_step=bar.step)

    density = plan.density(query_tile=QUERY_TILE, key_tile=KEY_TILE)
    result = {
        "prompt": str(scene),
        "density": density,
        "dense": dense_run,
        "sparse": sparse_run,
        "psnr": together(psnr(dense[0], sparse[0])),
        "ssim": ssim(dense[0], sparse[0]).mean().item(),
    }
    show_table(result)
    (args.out / RESULTS[-1]).touch()  # first, so that a demo that is stopped here can be run again
    side_by_side({"dense": dense[0], f"sparse, density {density:.2f}": sparse[0]}, args.out / "side_by_side.webp")
    Image.fromarray(draw_plan(plan, QUERY_TILE, KEY_TILE)).save(args.out / "plan.png")
    save_plan(plan, args.out / "plan.json", overwrite=True)
    save_profile(profile, args.out / "profile.safetensors", overwrite=True)
    (args.out / RESULTS[-1]).write_text(json.dumps(result, indent=1) + "\n")
    print(f"Written to {os.path.relpath(args.out)}: " + ", ".join(RESULTS))


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


def show_table(result: dict) -> None:
    """Dense and sparse side by side, in words and figures."""
    print(f"\nPrompt: {result['prompt']}")
    print(f"{FAMILY}, {'x'.join(map(str, GRID))} tokens, first {WARMUP:.0%} of the steps dense\n")
    print(f"{'':<34}{'dense':>10}{'sparse':>10}")
    rows = {
        "mean density after the warm-up": (1.0, result["density"]),
        "attention calls, sparse": (result["dense"]["sparse_calls"], result["sparse"]["sparse_calls"]),
        "attention calls, dense": (result["dense"]["dense_calls"], result["sparse"]["dense_calls"]),
        "PSNR against dense, dB": ("-", result["psnr"]),
        "SSIM against dense": ("-", result["ssim"]),
        "seconds, whatever else runs": (result["dense"]["seconds"], result["sparse"]["seconds"]),
    }
    for name, values in rows.items():
        cells = [f"{value:>10.2f}" if isinstance(value, float) else f"{value:>10}" for value in values]
        print(f"{name:<34}{''.join(cells)}")
    print("\nWhat is compared here is the video. Seconds are no benchmark: speed needs a GPU and a long video.\n")


if __name__ == "__main__":
    main()
