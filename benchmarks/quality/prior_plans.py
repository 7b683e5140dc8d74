"""Plans made the way the shipped ones are, on the small Wan: do they hold what a search of the model itself gives?

Of two scenes the density of keys of every head is measured, as it is public of real models. From it follows the prior
plan, by the shipped plans' rule. A third scene's generation then completes it, as the first one of a user does: its
dense warm-up gives the plan that it runs itself, and what it measures on the way, of each layer once in each band of
noise levels, the plan of the next generations. All are compared with the dense videos of other scenes, and with a plan
that was searched with everything known for the same density below the warm-up.

    python -m benchmarks.quality.prior_plans
    python -m benchmarks.quality.prior_plans --presets fast --prompts 4

Writes benchmarks/results/prior_plans-<device>-<date>.json after every plan.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections import Counter

import numpy as np
import torch
from small_wan.model import AttentionHook, dense_attention
from small_wan.sample import sample, sigma_schedule
from small_wan.video import Scene, encode
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.nodes.host.library.found import LATER_BANDS
from sparse_vdit.plans.plan.card import Card
from sparse_vdit.plans.plan.limits import limits_of
from sparse_vdit.plans.plan.plan import EVERY_SIGMA, Band, Plan, Provenance
from sparse_vdit.plans.profile.candidates import default_candidates
from sparse_vdit.plans.profile.profiler import Profiler
from sparse_vdit.plans.search.search import search_budget

from benchmarks.quality import tile_needs
from benchmarks.quality.quality import PROFILE_SEED, Comparison
from benchmarks.quality.small_wan_runs import (
    FAMILY,
    GRID,
    KEY_TILE,
    MIN_STEPS,
    MODEL,
    QUERY_TILE,
    output_grams,
    plan_attention,
    profile_scenes,
    random_scene,
    warmup_sigma,
    warmup_steps,
)
from benchmarks.report.results import save_results
from tools.plans.parts import routed
from tools.plans.rule import RULES, Rule

STEPS = 12
CALIBRATION_SEED = PROFILE_SEED + 100
ROWS = 128  # of a head, as in a generation
TILES = {"query_tile": QUERY_TILE, "key_tile": KEY_TILE}


def key_densities(run: Comparison) -> np.ndarray:
    """Mean part of the keys with 95 % of the mass over the steps after the warm-up, (layers, heads)."""
    needs = tile_needs.Needs(TokenGrid(*GRID))
    measured = set(sigma_schedule(run.steps).tolist()[warmup_steps(run.steps) : -1])

    def attention(sigma: float) -> AttentionHook:
        def hook(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, shape: tuple) -> torch.Tensor:
            needs.observe(layer, q[0], k[0])
            return dense_attention(layer, q, k, v, shape)

        return hook if sigma in measured else dense_attention

    for number, scene in enumerate(run.profiled):
        sample(run.model, encode([scene]), GRID, run.steps, seed=1000 + number, attention=attention)
    layers, heads = run.model.num_layers, run.model.num_heads
    found = [np.mean([one["keys"] for one in needs.found[divmod(n, heads)]]) for n in range(layers * heads)]
    return np.array(found).reshape(layers, heads)


def prior_plan(keys: np.ndarray, rule: Rule, steps: int) -> Plan:
    """Every head routed by the rule, as `tools/plans/priors.py` has it, dense in the warm-up."""
    table = [[routed(share) for share in row] for row in rule.planned(keys)]
    patterns = tuple(dict.fromkeys(pattern for row in table for pattern in row))
    heads = tuple(tuple(map(patterns.index, row)) for row in table)
    card = Card(MODEL, "density of heads", "patterns", float(rule.needed(keys).mean()))
    band = Band(warmup_sigma(steps), 0.0, heads)
    return Plan(FAMILY, *keys.shape, 128, GRID, patterns, (band,), "prior", Provenance(model=MODEL), card)


@dataclasses.dataclass
class FirstGeneration:
    """Attention of a user's first generation: the warm-up is dense and measured, a plan found from it runs the rest,
    where each layer is measured once in each band."""

    run: Comparison
    preset: str
    prior: Plan

    def __post_init__(self) -> None:
        model, sigmas, first = self.run.model, sigma_schedule(self.run.steps).tolist(), warmup_steps(self.run.steps)
        later = (sigmas[first + (self.run.steps - first) * part // LATER_BANDS] + 1e-6 for part in range(LATER_BANDS))
        bands = list(itertools.pairwise((EVERY_SIGMA, *later, 0.0)))
        self.profiler = Profiler(
            FAMILY, MODEL, model.num_layers, model.num_heads, 128, default_candidates(), bands, rows=ROWS, **TILES
        )
        self.grams = output_grams(model)
        self.plan: Plan | None = None
        self.attend = None
        self.seen: set[tuple[int, int]] = set()

    def searched(self) -> Plan:
        """The plan of what was measured by now, for all noise levels below the warm-up."""
        plan = search_budget(self.profiler.profile(), preset=self.preset, limits=limits_of(self.prior, **TILES))
        bands = plan.bands[1:] or plan.bands  # the warm-up stays dense
        edges = (warmup_sigma(self.run.steps), *(band.sigma_high for band in bands[1:]), 0.0)
        levels = itertools.pairwise(edges)
        return dataclasses.replace(
            plan, bands=tuple(Band(*level, band.heads) for band, level in zip(bands, levels, strict=True))
        )

    def __call__(self, sigma: float) -> AttentionHook:
        band = self.profiler.band_at(sigma)
        if band > 0 and self.plan is None:
            self.plan = self.searched()
            self.attend = plan_attention(self.plan, Counter())
        attend = dense_attention if self.plan is None else self.attend(sigma)

        def hook(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, shape: tuple) -> torch.Tensor:
            if band == 0 or (band, layer) not in self.seen:
                self.seen.add((band, layer))
                self.profiler.observe(layer, sigma, q, k, v, TokenGrid(*shape), self.grams[layer])
            return attend(layer, q, k, v, shape)

        return hook


def completed(run: Comparison, preset: str, prior: Plan) -> dict[str, Plan]:
    """The plans of the first generation, and of the next ones."""
    scene: Scene = random_scene(torch.Generator().manual_seed(CALIBRATION_SEED))
    first = FirstGeneration(run, preset, prior)
    sample(run.model, encode([scene]), GRID, run.steps, seed=CALIBRATION_SEED, attention=first)
    return {"first generation": first.plan, "next generations": first.searched()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=RULES, default=("balanced", "fast", "faithful"))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    if args.prompts < 1 or not MIN_STEPS <= args.steps <= 1000:
        parser.error(f"--prompts has to be at least 1 and --steps {MIN_STEPS} to 1000")
    run = Comparison(args.prompts, args.steps, "cpu")
    keys = key_densities(run)
    full = profile_scenes(run.model, run.profiled, steps=args.steps)
    for preset in args.presets:
        prior = prior_plan(keys, RULES[preset], args.steps)
        plans = {"prior": prior, **completed(run, preset, prior)}
        for name, plan in plans.items():
            row = run.measure(plan, name, f"{name}, {preset}", judge=False)
            save_results("prior_plans", run.rows, unfinished=True)  # already now: a plan takes minutes
            searched = search_budget(full, density=row["density"])
            run.measure(searched, "ours_budget", f"searched for the density of {name}, {preset}", judge=False)
            save_results("prior_plans", run.rows, unfinished=True)
    print("Written to", save_results("prior_plans", run.rows))


if __name__ == "__main__":
    main()
