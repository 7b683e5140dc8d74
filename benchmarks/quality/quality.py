"""How close sparse videos of the small Wan stay to dense ones, and whether they are as good.

Profiles on two scenes, evaluates on others with the same noise, all in one batch. Each plan is run after a dense
warm-up and, its first band from the first step on, without one. PSNR, SSIM and flicker are against the dense video,
`frechet` and `loss` (truth.py) against true videos. The loss is the stricter judge: it says how likely true videos are
to the model. The distance compares pixels in small blocks and shows what is clearly worse; below the dense videos' own
it says nothing. The row `truth` is what other true videos have.

`--singles N` adds N single patterns for all heads, of different kinds (union, diagonal, multi-diagonal, stripe, in this
order) and of a grid of sizes. Their density lies at or a little above the plan's, so that the comparison favours
them; a plan of exactly the density of the best of them follows.
`--paper` adds plans by the paper's rule.
Writes benchmarks/results/quality-<device>-<date>.json; `figures.py quality` draws it.

    python -m benchmarks.quality.quality                                                    # one plan
    python -m benchmarks.quality.quality --density 0.2 0.35 0.5 --singles 2 --paper         # the README's table
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import pattern_density
from sparse_vdit.kernels.order import SPATIAL
from sparse_vdit.kernels.patterns import Diagonal, MultiDiagonal, Pattern, Union, VerticalStripe
from sparse_vdit.plans.plan.files import save_plan
from sparse_vdit.plans.plan.plan import EVERY_SIGMA, Plan, uniform_plan
from sparse_vdit.plans.profile.candidates import FIRST_FRAME, LAST_FRAME
from sparse_vdit.plans.profile.profile import Profile
from sparse_vdit.plans.search.search import SearchError, search_budget, search_paper
from sparse_vdit.plans.view.metrics import flicker, psnr, ssim, together

from benchmarks.quality.small_wan_runs import (
    FAMILY,
    GRID,
    KEY_TILE,
    MIN_STEPS,
    MODEL,
    PROMPT_SEED,
    QUERY_TILE,
    STEPS,
    Attention,
    generate,
    load_model,
    profile_scenes,
    random_scene,
    warmup_steps,
)
from benchmarks.quality.truth import Truth, held_out_loss
from benchmarks.report.results import save_results

PROFILE_SEED, NOISE_SEED = 501, 3
PAPER_LIMITS = ((0.5, 1.0), (0.01, 0.01))  # lambda and epsilon: the paper's, and some that suit a small model
SIZES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
SINGLE_KINDS = ("union", "diagonal", "multi_diagonal", "vertical_stripe")  # the strongest first, as measured
ROOM = 0.06  # how much denser than the plan a single pattern may be


def single_patterns() -> Iterator[Pattern]:
    """Every diagonal, multi-diagonal, union of own frames and own place, and stripe of a grid of sizes."""
    yield from (Diagonal(frames) for frames in range(8))
    yield from (Diagonal(frames, size, size) for frames in range(8) for size in SIZES)
    yield from (MultiDiagonal(height, width) for height, width in itertools.product(SIZES, SIZES))
    yield from (MultiDiagonal(size, None) for size in SIZES)
    yield from (MultiDiagonal(None, size) for size in SIZES)
    for frames, size in itertools.product(range(3), SIZES):
        yield Union((Diagonal(frames), MultiDiagonal(size, size, order=SPATIAL)))
    yield VerticalStripe((FIRST_FRAME, LAST_FRAME))
    yield from (VerticalStripe(((0.0, 1.0, 0.5 - s / 2, 0.5 + s / 2, 0.5 - s / 2, 0.5 + s / 2),)) for s in SIZES[2:])


def closest_patterns(density: float, most: int) -> list[tuple[Pattern, float]]:
    """Single patterns this dense or at most ROOM above: the sparsest of each of SINGLE_KINDS, then the next."""
    near: dict[str, list[tuple[float, Pattern]]] = {kind: [] for kind in SINGLE_KINDS}
    for pattern in single_patterns():
        found = pattern_density(pattern, TokenGrid(*GRID), QUERY_TILE, KEY_TILE)
        if density - 0.002 <= found <= density + ROOM:
            near[pattern.kind].append((found, pattern))
    ranked = [sorted(group, key=lambda pair: pair[0]) for group in near.values()]
    mixed = [pair for pairs in itertools.zip_longest(*ranked) for pair in pairs if pair is not None]
    distinct: dict[tuple[str, float], tuple[Pattern, float]] = {}
    for found, pattern in mixed:
        distinct.setdefault((pattern.kind, round(found, 4)), (pattern, found))
    return list(distinct.values())[:most]


def without_warmup(plan: Plan) -> Plan:
    """The plan with its first band from the first step on."""
    return dataclasses.replace(
        plan, bands=(dataclasses.replace(plan.bands[0], sigma_high=EVERY_SIGMA), *plan.bands[1:])
    )


class Comparison:
    """The dense videos of some scenes, and a row for everything that is compared with them."""

    def __init__(self, prompts: int, steps: int, device: str):
        self.model, self.steps = load_model(device=device), steps
        self.scenes = [random_scene(torch.Generator().manual_seed(PROMPT_SEED + n)) for n in range(prompts)]
        self.profiled = [random_scene(torch.Generator().manual_seed(PROFILE_SEED + n)) for n in range(2)]
        self.dense, run = generate(self.model, self.scenes, None, NOISE_SEED, steps)
        self.dense_seconds = run["seconds"]
        self.truth = Truth(self.scenes, self.dense)
        self.rows: list[dict] = []
        self.add({"method": "truth", "rule": "true videos", "frechet": round(self.truth.floor(), 4)})
        self.add({"method": "dense", "rule": "dense", "density": 1.0, **self.judge(self.dense, None)})

    def add(self, row: dict) -> dict:
        """Keep a row and show it."""
        known = {"model": MODEL, "grid": list(GRID), "steps": self.steps, "prompts": len(self.scenes)}
        self.rows.append(known | row)
        print(json.dumps(self.rows[-1]), flush=True)
        return self.rows[-1]

    def judge(self, video: torch.Tensor, plan: Plan | Attention | None, warm: bool = True) -> dict:
        """What needs no dense video: distance to true videos and, of levels after the warm-up alone, loss on them."""
        distance = {"frechet": round(self.truth.distance(video), 4)}
        if not warm:
            return distance
        return distance | {"loss": round(held_out_loss(self.model, plan, len(self.scenes), self.steps), 5)}

    def measure(
        self, plan: Plan | Attention, method: str, rule: str, warm: bool = True, density: float | None = None,
        judge: bool = True,
    ) -> dict:  # fmt: skip
        """Generate with a plan, or attention of a density, and add its row; `warm`: the warm-up is dense; `judge`:
        compare with true videos too, which takes half as long again."""
        video, run = generate(self.model, self.scenes, plan, NOISE_SEED, self.steps)
        pairs = list(zip(self.dense, video, strict=True))
        if density is None:
            density = plan.density(query_tile=QUERY_TILE, key_tile=KEY_TILE)
        return self.add({
            "method": method, "rule": rule, "warmup": warm * round(warmup_steps(self.steps) / self.steps, 4),
            "density": round(density, 4),
            "psnr": round(sum(together(psnr(a, b)) for a, b in pairs) / len(pairs), 2),
            "ssim": round(sum(ssim(a, b).mean().item() for a, b in pairs) / len(pairs), 4),
            "flicker": round(sum(flicker(a, b).mean().item() for a, b in pairs) / len(pairs), 5),
            **(self.judge(video, plan, warm) if judge else {}),
            "seconds": round(run["seconds"], 1), "dense_seconds": round(self.dense_seconds, 1),
        })  # fmt: skip

    def measure_density(self, profile: Profile, density: float, most_singles: int, plans: Path | None) -> None:
        """A searched plan, single patterns of about its density, and the plan without warm-up."""
        plan = search_budget(profile, density=density)
        if plans:
            save_plan(plan, plans / f"budget-{density}.json", overwrite=True)
        ours = self.measure(plan, "ours_budget", f"budget, density {density}")
        singles = []
        for pattern, _ in closest_patterns(ours["density"], most_singles) if most_singles else ():
            head = profile.header
            single = uniform_plan(
                FAMILY, head.layers, head.heads, head.head_dim, head.grid, pattern,
                sigma_high=head.bands[0][0], grade="measured",
            )  # fmt: skip
            singles.append(self.measure(single, "uniform", pattern.describe()))
        if singles:  # the best of them is denser than the plan: a plan of its own density is the fair comparison
            best = max(singles, key=lambda row: row["psnr"])["density"]
            self.measure(search_budget(profile, density=best), "ours_budget", f"budget, density {best}")
        self.measure(without_warmup(plan), "ours_budget", f"budget, density {density}", warm=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, nargs="+", default=[0.35])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--singles", type=int, default=0, help="single patterns to compare each plan with")
    parser.add_argument("--paper", action="store_true", help="also plans by the paper's rule")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--plans", type=Path, help="also save the searched plans in this folder, which has to exist")
    args = parser.parse_args()
    wrong = [density for density in args.density if not 0 < density <= 1]
    if wrong:
        parser.error(f"--density is {wrong[0]}, expected above 0 and at most 1")
    if args.prompts < 1 or args.singles < 0:
        parser.error("--prompts has to be at least 1 and --singles at least 0")
    if not MIN_STEPS <= args.steps <= 1000:
        parser.error(f"--steps is {args.steps}, expected {MIN_STEPS} to 1000")
    if args.plans and not args.plans.is_dir():
        parser.error(f"--plans {args.plans} is no folder")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no such device here")
    run = Comparison(args.prompts, args.steps, args.device)
    profile = profile_scenes(run.model, run.profiled, steps=args.steps)
    for density in args.density:
        try:
            run.measure_density(profile, density, args.singles, args.plans)
        except SearchError as error:
            parser.error(str(error))
        save_results("quality", run.rows, args.device, unfinished=True)  # already now, the rest may take an hour
    for lam, epsilon in PAPER_LIMITS if args.paper else ():
        sequential = profile_scenes(
            run.model, run.profiled, flow="sequential", steps=args.steps, lam=lam, epsilon=epsilon
        )
        plan = search_paper(sequential, lam, epsilon)
        run.measure(plan, "ours_paper", f"paper, lambda {lam}, epsilon {epsilon}")
    print("Written to", save_results("quality", run.rows, args.device))


if __name__ == "__main__":
    main()
