"""How far a sparse video is from the dense one, by the error that the plan's search predicts: what reports estimate.

Plans of many densities are searched on two scenes of the small Wan and run on others. A row is one plan: the predicted
error, and PSNR of its videos, mean, lowest and highest. `spread` of the last row is the standard deviation, in dB, of
single videos around the line through all of them over the logarithm of the error.

    python -m benchmarks.quality.expected_distance

Writes benchmarks/results/expected_distance-<device>-<date>.json.
"""

from __future__ import annotations

import argparse

import numpy as np
from sparse_vdit.plans.search.search import search_budget
from sparse_vdit.plans.view.metrics import psnr, together

from benchmarks.quality.plan_transfer import scenes_from
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
)
from benchmarks.report.results import save_results

DENSITIES = (0.12, 0.16, 0.2, 0.25, 0.3, 0.35, 0.42, 0.5, 0.6, 0.75)


def fit(errors: list[float], distances: list[list[float]]) -> dict:
    """The line through PSNR over log10 of the error, and how far single videos are from it.

    Args:
        errors: of each plan.
        distances: PSNR of each plan's videos, dB.
    """
    x = np.repeat(np.log10(errors), [len(group) for group in distances])
    y = np.concatenate([np.asarray(group) for group in distances])
    slope, at_one = np.polyfit(x, y, 1)
    spread = float(np.std(y - (slope * x + at_one), ddof=2))
    return {"slope": round(float(slope), 2), "at_one": round(float(at_one), 2), "spread": round(spread, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    if args.prompts < 2 or not MIN_STEPS <= args.steps <= 1000:
        parser.error(f"--prompts has to be at least 2 and --steps {MIN_STEPS} to 1000")
    model, scenes = load_model(), scenes_from(PROMPT_SEED, args.prompts)
    profile = profile_scenes(model, scenes_from(PROFILE_SEED, 2), steps=args.steps)
    dense, _ = generate(model, scenes, None, NOISE_SEED, args.steps)
    known = {"model": MODEL, "grid": list(GRID), "steps": args.steps, "prompts": args.prompts}
    rows, errors, distances = [], [], []
    for density in DENSITIES:
        plan = search_budget(profile, density=density)
        video, _ = generate(model, scenes, plan, NOISE_SEED, args.steps)
        distances.append([together(psnr(a, b)) for a, b in zip(dense, video, strict=True)])
        errors.append(plan.provenance.parameters["predicted_error"])
        rows.append(known | {
            "density": round(plan.density(query_tile=QUERY_TILE, key_tile=KEY_TILE), 4),
            "predicted_error": errors[-1], "psnr": round(sum(distances[-1]) / args.prompts, 2),
            "lowest": round(min(distances[-1]), 2), "highest": round(max(distances[-1]), 2),
        })  # fmt: skip
        print(rows[-1], flush=True)
        save_results("expected_distance", rows, unfinished=True)
    rows.append(known | fit(errors, distances))
    print("Written to", save_results("expected_distance", rows))


if __name__ == "__main__":
    main()
