"""Quality of searched plans at the size of a real video's frames, with the kernels' own tiles of 128 x 64 tokens.

The other tables use 1,620 tokens and tiles in proportion, which takes minutes. Here it is 13 x 24 x 28 = 8,736 tokens
and the tiles that every card computes with. Plans are searched on two scenes and used for others.

    python -m benchmarks.quality.real_size                           hours on two cores
    python -m benchmarks.quality.real_size --prompts 1 --density 0.35

Each part that is done is kept in --work, from where a run that was stopped goes on.
Writes benchmarks/results/real_size-<device>-<date>.json.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from small_wan.sample import sample
from small_wan.video import encode, to_video
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.tiling import KEY_TILE, QUERY_TILE
from sparse_vdit.plans.plan.plan import Plan
from sparse_vdit.plans.profile.profile_files import load_profile, save_profile
from sparse_vdit.plans.search.search import search_budget
from sparse_vdit.plans.view.metrics import flicker, psnr, ssim, together
from torch import Tensor

from benchmarks.quality.quality import NOISE_SEED, PROFILE_SEED
from benchmarks.quality.small_wan_runs import (
    MIN_STEPS,
    MODEL,
    PROMPT_SEED,
    Attention,
    load_model,
    plan_attention,
    profile_scenes,
    random_scene,
    warmup_steps,
)
from benchmarks.report.results import save_results

GRID = (13, 24, 28)
TILES = (QUERY_TILE, KEY_TILE)


class RealSize:
    """The runs, each of which is kept in a folder.

    Args:
        steps: of a generation.
        grid: (frames, height, width) in tokens.
        work: folder for what is done; one for each number of steps and grid.
    """

    def __init__(self, steps: int, grid: tuple[int, int, int], work: Path):
        self.model, self.steps, self.grid, self.work = load_model(), steps, grid, work
        work.mkdir(parents=True, exist_ok=True)

    def video(self, name: str, prompt: int, attention: Attention | None) -> Tensor:
        """Video (frames, H, W, 3) in 0..1 of an unseen prompt."""
        file = self.work / f"{name}-{prompt}.safetensors"
        if not file.exists():
            scene = random_scene(torch.Generator().manual_seed(PROMPT_SEED + prompt))
            context = encode([scene])
            latent = sample(self.model, context, self.grid, self.steps, NOISE_SEED + prompt, attention)
            replace(file, lambda part: save_file({"latent": latent}, part))
        latent = load_file(file)["latent"]
        return (to_video(latent)[0].permute(1, 2, 3, 0) + 1) / 2

    def plan(self, density: float) -> Plan:
        """A plan of a density, by a profile of two scenes."""
        file = self.work / "profile.safetensors"
        if not file.exists():
            scenes = [random_scene(torch.Generator().manual_seed(PROFILE_SEED + n)) for n in range(2)]
            profile = profile_scenes(self.model, scenes, steps=self.steps, grid=self.grid, tiles=TILES)
            replace(file, lambda part: save_profile(profile, part, overwrite=True))
        return search_budget(load_profile(file), density=density)

    def row(self, density: float, prompt: int) -> dict:
        """How close a sparse video is to the dense one."""
        plan = self.plan(density)
        by_plan = plan_attention(plan, Counter(), TILES)
        dense = self.video("dense", prompt, None)
        video = self.video(f"budget-{density}", prompt, by_plan)
        return {
            "model": MODEL, "grid": list(self.grid), "steps": self.steps, "prompt": prompt, "tiles": list(TILES),
            "rule": f"budget, density {density}", "warmup": round(warmup_steps(self.steps) / self.steps, 4),
            "density": round(plan.density(TokenGrid(*self.grid)), 4),
            "psnr": round(together(psnr(dense, video)), 2), "ssim": round(ssim(dense, video).mean().item(), 4),
            "flicker": round(flicker(dense, video).mean().item(), 5),
        }  # fmt: skip


def replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    part = file.with_name(f"part-{file.name}")
    write(part)
    part.replace(file)


def means(rows: list[dict]) -> list[dict]:
    """One row for each density: the mean over its prompts, and the lowest PSNR."""
    found = []
    for rule in dict.fromkeys(row["rule"] for row in rows):
        mine = [row for row in rows if row["rule"] == rule]
        mean = {key: round(sum(row[key] for row in mine) / len(mine), 5) for key in ("psnr", "ssim", "flicker")}
        known = {key: value for key, value in mine[0].items() if key not in ("prompt", *mean)}
        found.append({**known, "prompts": len(mine), **mean, "lowest_psnr": min(row["psnr"] for row in mine)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, nargs="+", default=[0.35, 0.25, 0.5])
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--grid", type=int, nargs=3, default=GRID, metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/real_size"), help="folder for what is done")
    args = parser.parse_args()
    wrong = [density for density in args.density if not 0 < density <= 1]
    if wrong:
        parser.error(f"--density is {wrong[0]}, expected above 0 and at most 1")
    if args.prompts < 1 or min(args.grid) < 1:
        parser.error("--prompts and --grid have to be at least 1")
    if not MIN_STEPS <= args.steps <= 1000:
        parser.error(f"--steps is {args.steps}, expected {MIN_STEPS} to 1000")
    size = "x".join(map(str, args.grid))
    run = RealSize(args.steps, tuple(args.grid), args.work / f"{size}-{args.steps}")
    rows: list[dict] = []
    for prompt in range(args.prompts):
        for density in args.density:
            rows.append(run.row(density, prompt))
            print(json.dumps(rows[-1]), flush=True)
            save_results("real_size", [*rows, *means(rows)], unfinished=True)
    print("Written to", save_results("real_size", [*rows, *means(rows)]))


if __name__ == "__main__":
    main()
