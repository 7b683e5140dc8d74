"""Plans made the way the shipped ones are, on the small Wan: do they hold what a search of the model itself gives?

Of two scenes the density of keys of every head is measured, as it is public of real models. From it follows the prior
plan, by the shipped plans' rule. A third scene's dense warm-up then completes it, as the first generation of a user
does. Both are compared with the dense videos of other scenes, and with a plan that was searched at all noise levels for
the density of the completed one, or of the prior one.

    python benchmarks/prior_plans.py
    python benchmarks/prior_plans.py --presets fast --prompts 4

Writes benchmarks/results/prior_plans-<device>-<date>.json after every plan.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import tile_needs
import torch
from quality import PROFILE_SEED, Comparison
from results import save_results
from small_wan.model import AttentionHook, dense_attention
from small_wan.sample import sample, sigma_schedule
from small_wan.video import Scene, encode
from small_wan_runs import (
    FAMILY,
    GRID,
    KEY_TILE,
    LEAST_STEPS,
    MODEL,
    QUERY_TILE,
    profile_scenes,
    random_scene,
    warmup_sigma,
    warmup_steps,
)
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.plans.building.parts import routed
from sparse_vdit.plans.building.rule import RULES, Rule
from sparse_vdit.plans.card import Card
from sparse_vdit.plans.limits import limits_of
from sparse_vdit.plans.plan import Band, Plan, Provenance
from sparse_vdit.plans.profile import Profile
from sparse_vdit.plans.search import search_budget

STEPS = 12
CALIBRATION_SEED = PROFILE_SEED + 100
CALIBRATION_ROWS = 128  # of a head, as in a generation
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
    """Every head routed by the rule, as `plans/building/priors.py` has it, dense in the warm-up."""
    table = [[routed(share) for share in row] for row in rule.planned(keys)]
    patterns = tuple(dict.fromkeys(pattern for row in table for pattern in row))
    heads = tuple(tuple(map(patterns.index, row)) for row in table)
    card = Card(MODEL, "density of heads", "patterns", float(rule.needed(keys).mean()))
    band = Band(warmup_sigma(steps), 0.0, heads)
    return Plan(FAMILY, *keys.shape, 128, GRID, patterns, (band,), "prior", Provenance(model=MODEL), card)


def calibrated(run: Comparison) -> Profile:
    """What a first generation measures in its warm-up."""
    scene: Scene = random_scene(torch.Generator().manual_seed(CALIBRATION_SEED))
    return profile_scenes(run.model, [scene], steps=run.steps, every=1, rows=CALIBRATION_ROWS, in_warmup=True)


def completed(profile: Profile, preset: str, prior: Plan) -> Plan:
    """The plan that a first generation finds, below the warm-up."""
    plan = search_budget(profile, preset=preset, limits=limits_of(prior, **TILES))
    (band,) = plan.bands
    return dataclasses.replace(plan, bands=(dataclasses.replace(prior.bands[0], heads=band.heads),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=RULES, default=("balanced", "fast", "faithful"))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    if args.prompts < 1 or not LEAST_STEPS <= args.steps <= 1000:
        parser.error(f"--prompts has to be at least 1 and --steps {LEAST_STEPS} to 1000")
    run = Comparison(args.prompts, args.steps, "cpu")
    keys, warm_up = key_densities(run), calibrated(run)
    full = profile_scenes(run.model, run.profiled, steps=args.steps)
    for preset in args.presets:
        prior = prior_plan(keys, RULES[preset], args.steps)
        plans = {"prior": prior, "completed": completed(warm_up, preset, prior)}
        for name, plan in plans.items():
            row = run.measure(plan, name, f"{name}, {preset}", judge=False)
            save_results("prior_plans", run.rows)  # already now: a plan takes minutes
            searched = search_budget(full, density=row["density"])
            run.measure(searched, "ours_budget", f"searched for the density of {name}, {preset}", judge=False)
            file = save_results("prior_plans", run.rows)
    print("Written to", file)


if __name__ == "__main__":
    main()
