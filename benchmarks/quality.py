"""How close sparse videos of the small Wan stay to dense ones: searched plans beside one pattern for all heads.

Profiles on two scenes, evaluates on others with the same noise. Single patterns are all windows and stripes of a grid
of sizes whose density lies at or a little above the plan's, so that the comparison favours them. Searched plans are
also run without warm-up, their first band from the first step on; `loss` is the model's own loss on true videos, so
that what differs from the dense video but is as good can be told from what is worse. A last plan has exactly the
density of the best single pattern.
Writes benchmarks/results/quality-<device>-<date>.json.

    python benchmarks/quality.py --density 0.35 --prompts 4
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from results import save_results
from small_wan_runs import (
    FAMILY,
    GRID,
    KEY_TILE,
    QUERY_TILE,
    STEPS,
    WARMUP,
    generate,
    held_out_loss,
    load_model,
    profile_scenes,
    random_scene,
)
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import pattern_density
from sparse_vdit.kernels.patterns import Diagonal, MultiDiagonal, Pattern, VerticalStripe
from sparse_vdit.plans.candidates import FIRST_FRAME, LAST_FRAME
from sparse_vdit.plans.files import save_plan
from sparse_vdit.plans.metrics import flicker, ssim, video_psnr
from sparse_vdit.plans.plan import EVERY_SIGMA, Plan, uniform_plan
from sparse_vdit.plans.search import search_budget, search_paper

PROFILE_SEED, PROMPT_SEED, NOISE_SEED, TRUTH_SEED = 501, 9001, 3, 20_000_000
SIZES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
ROOM = 0.06  # how much denser than the plan a single pattern may be


def single_patterns() -> Iterator[Pattern]:
    """Every diagonal, multi-diagonal and stripe of a grid of sizes."""
    yield from (Diagonal(frames) for frames in range(8))
    yield from (Diagonal(frames, size, size) for frames in range(8) for size in SIZES)
    yield from (MultiDiagonal(height, width) for height, width in itertools.product(SIZES, SIZES))
    yield from (MultiDiagonal(size, None) for size in SIZES)
    yield from (MultiDiagonal(None, size) for size in SIZES)
    yield VerticalStripe((FIRST_FRAME, LAST_FRAME))
    yield from (VerticalStripe(((0.0, 1.0, 0.5 - s / 2, 0.5 + s / 2, 0.5 - s / 2, 0.5 + s / 2),)) for s in SIZES[2:])


def closest_patterns(density: float, most: int) -> list[tuple[Pattern, float]]:
    """Single patterns at least this dense and at most ROOM above, of every kind, closest last."""
    near: dict[str, list[tuple[float, Pattern]]] = {}
    for pattern in single_patterns():
        found = pattern_density(pattern, TokenGrid(*GRID), QUERY_TILE, KEY_TILE)
        if density - 0.002 <= found <= density + ROOM:
            near.setdefault(pattern.kind, []).append((found, pattern))
    ranked = [sorted(group, key=lambda pair: pair[0]) for group in near.values()]
    mixed = [pair for pairs in itertools.zip_longest(*ranked) for pair in pairs if pair is not None]
    distinct = {round(found, 4): (pattern, found) for found, pattern in reversed(mixed)}
    return list(distinct.values())[-most:]


def without_warmup(plan: Plan) -> Plan:
    """The plan with its first band from the first step on."""
    return dataclasses.replace(
        plan, bands=(dataclasses.replace(plan.bands[0], sigma_high=EVERY_SIGMA), *plan.bands[1:])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, nargs="+", default=[0.35])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--singles", type=int, default=12)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--plans", type=Path, help="also save the searched plans in this folder")
    args = parser.parse_args()
    model = load_model()
    scenes = [random_scene(torch.Generator().manual_seed(PROMPT_SEED + n)) for n in range(args.prompts)]
    profile_of = [random_scene(torch.Generator().manual_seed(PROFILE_SEED + n)) for n in range(2)]
    dense, dense_run = generate(model, scenes, None, NOISE_SEED, args.steps)
    rows: list[dict] = []

    def measure(plan: Plan | None, method: str, rule: str, warmup: float = WARMUP) -> dict:
        video, run = generate(model, scenes, plan, NOISE_SEED, args.steps) if plan else (dense, dense_run)
        pairs = list(zip(dense, video, strict=True))
        row = {
            "model": FAMILY, "grid": list(GRID), "method": method, "rule": rule,
            "density": round(plan.density(query_tile=QUERY_TILE, key_tile=KEY_TILE), 4) if plan else 1.0,
            "warmup": warmup, "prompts": args.prompts,
            "psnr": round(sum(video_psnr(a, b) for a, b in pairs) / len(pairs), 2) if plan else None,
            "ssim": round(sum(ssim(a, b).mean().item() for a, b in pairs) / len(pairs), 4),
            "flicker": round(sum(flicker(a, b).mean().item() for a, b in pairs) / len(pairs), 5),
            "loss": round(held_out_loss(model, plan, args.prompts, TRUTH_SEED), 5),
            "seconds": round(run["seconds"], 1), "dense_seconds": round(dense_run["seconds"], 1),
        }  # fmt: skip
        rows.append(row)
        print(json.dumps(row), flush=True)
        return row

    measure(None, "dense", "dense")
    profile = profile_scenes(model, profile_of, steps=args.steps)
    for density in args.density:
        plan = search_budget(profile, density=density)
        if args.plans:
            save_plan(plan, args.plans / f"budget-{density}.json", overwrite=True)
        ours = measure(plan, "ours_budget", f"budget, density {density}")
        singles = []
        for pattern, _ in closest_patterns(ours["density"], args.singles):
            head = profile.header
            single = uniform_plan(
                FAMILY, head.layers, head.heads, head.head_dim, head.grid, pattern,
                sigma_high=head.bands[0][0], grade="measured",
            )  # fmt: skip
            singles.append(measure(single, "uniform", pattern.describe()))
        if singles:  # the best of them is denser than the plan: a plan of its own density is the fair comparison
            best = max(singles, key=lambda row: row["psnr"])["density"]
            measure(search_budget(profile, density=best), "ours_budget", f"budget, density {best}")
        measure(without_warmup(plan), "ours_budget", f"budget, density {density}", warmup=0.0)
    for lam, epsilon in ((0.5, 1.0), (0.01, 0.01)):
        sequential = profile_scenes(model, profile_of, flow="sequential", steps=args.steps, lam=lam, epsilon=epsilon)
        measure(search_paper(sequential, lam, epsilon), "ours_paper", f"paper, lambda {lam}, epsilon {epsilon}")
    print("Written to", save_results("quality", rows))


if __name__ == "__main__":
    main()
