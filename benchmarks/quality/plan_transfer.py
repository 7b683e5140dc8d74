"""How much a plan hangs on what it was found on: few prompts or many, the video itself, and its size.

    few, many     plans of 2 and of 16 prompts, on prompts that neither has seen
    own           a plan for each of those prompts, found on its own dense video
    warm-up       a plan found in the dense steps of one generation alone, as the patch node finds one
    size          a plan found on 9x12x15 tokens, on a grid twice as large, beside a plan found there; both of the same
                  density on that grid

    python -m benchmarks.quality.plan_transfer
    python -m benchmarks.quality.plan_transfer --prompts 2 --steps 12 --many 4

Writes benchmarks/results/plan_transfer-<device>-<date>.json.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.plans.plan.plan import Plan
from sparse_vdit.plans.search.search import search_budget
from sparse_vdit.plans.view.metrics import psnr, together
from torch import Tensor

from benchmarks.quality.quality import NOISE_SEED, PROFILE_SEED
from benchmarks.quality.small_wan_runs import (
    GRID,
    KEY_TILE,
    MIN_STEPS,
    MODEL,
    PROMPT_SEED,
    QUERY_TILE,
    STEPS,
    generate,
    load_model,
    profile_scenes,
    random_scene,
    warmup_sigma,
)
from benchmarks.report.results import save_results

LARGE_GRID = (9, 17, 21)  # 3,213 tokens
FEW = 2


def scenes_from(seed: int, count: int) -> list:
    """Scenes by a seed."""
    return [random_scene(torch.Generator().manual_seed(seed + n)) for n in range(count)]


def mean_psnr(dense: Tensor, videos: Tensor) -> float:
    """In dB, over videos (B, frames, H, W, 3)."""
    return round(sum(together(psnr(a, b)) for a, b in zip(dense, videos, strict=True)) / len(dense), 2)


def below_warmup(plan: Plan, steps: int) -> Plan:
    """A plan of one band that was measured in the warm-up, for all that comes after it."""
    band = dataclasses.replace(plan.bands[0], sigma_high=warmup_sigma(steps), sigma_low=0.0)
    return dataclasses.replace(plan, bands=(band,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.3)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--many", type=int, default=16)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    if not 0 < args.density <= 1 or args.prompts < 1 or args.many < FEW or not MIN_STEPS <= args.steps <= 1000:
        parser.error("--density, --prompts, --many or --steps is out of range")
    model, scenes, rows = load_model(), scenes_from(PROMPT_SEED, args.prompts), []

    def add(what: str, grid: tuple[int, int, int], plan: Plan, dense: Tensor, videos: Tensor) -> None:
        density = plan.density(TokenGrid(*grid), query_tile=QUERY_TILE, key_tile=KEY_TILE)
        rows.append({
            "model": MODEL, "grid": list(grid), "steps": args.steps, "prompts": len(dense), "what": what,
            "density": round(density, 4), "psnr": mean_psnr(dense, videos),
        })  # fmt: skip
        print(rows[-1], flush=True)
        save_results("plan_transfer", rows, unfinished=True)

    dense, _ = generate(model, scenes, None, NOISE_SEED, args.steps)
    found = {}
    for count in (FEW, args.many):
        profile = profile_scenes(model, scenes_from(PROFILE_SEED, count), steps=args.steps)
        found[count] = search_budget(profile, density=args.density)
        add(f"plan of {count} prompts", GRID, found[count], dense, generate(model, scenes, found[count], NOISE_SEED,
            args.steps)[0])  # fmt: skip
    profile = profile_scenes(model, scenes_from(PROFILE_SEED, 1), steps=args.steps, every=1, in_warmup=True)
    plan = below_warmup(search_budget(profile, density=args.density), args.steps)
    add("plan of the warm-up of 1 prompt", GRID, plan, dense, generate(model, scenes, plan, NOISE_SEED, args.steps)[0])
    own = [
        search_budget(profile_scenes(model, [scene], steps=args.steps), density=args.density) for scene in scenes
    ]
    singles = [generate(model, [scene], None, NOISE_SEED, args.steps)[0] for scene in scenes]
    sparse = [generate(model, [scene], plan, NOISE_SEED, args.steps)[0]
              for scene, plan in zip(scenes, own, strict=True)]  # fmt: skip
    add("plan of each prompt itself", GRID, own[0], torch.cat(singles), torch.cat(sparse))

    some = scenes[: max(1, args.prompts // 2)]
    large, _ = generate(model, some, None, NOISE_SEED, args.steps, LARGE_GRID)
    profile = profile_scenes(model, scenes_from(PROFILE_SEED, FEW), steps=args.steps, grid=LARGE_GRID)
    transferred = found[FEW]
    density = transferred.density(TokenGrid(*LARGE_GRID), query_tile=QUERY_TILE, key_tile=KEY_TILE)
    for what, plan in (
        ("plan of the smaller grid", transferred),
        ("plan of the grid itself", search_budget(profile, density=density)),
    ):
        add(what, LARGE_GRID, plan, large, generate(model, some, plan, NOISE_SEED, args.steps, LARGE_GRID)[0])
    print("Written to", save_results("plan_transfer", rows))


if __name__ == "__main__":
    main()
