"""Does it pay to let the tiles that are left out count as their mean (`tail`), at equal work?

A searched plan runs plainly and with the tail (PISA, arXiv 2602.01077; Sol-Attn, 2607.24027), and a plan of as much
more density as the tail's work is. The tail scores one summary for each tile that is left out, (1 - density) / key tile
of the dense work, which with the small video's tiles of 16 keys is four times what it is with the kernels' 64.

    python benchmarks/compensation.py
    python benchmarks/compensation.py --density 0.3 --prompts 2

Writes benchmarks/results/compensation-<device>-<date>.json.
"""

from __future__ import annotations

import argparse
from collections import Counter

from quality import Comparison
from results import save_results
from small_wan_runs import KEY_TILE, LEAST_STEPS, QUERY_TILE, STEPS, plan_attention, profile_scenes
from sparse_vdit.plans.search import search_budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, nargs="+", default=[0.2, 0.35])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    wrong = [density for density in args.density if not 0 < density < 1]
    if wrong or args.prompts < 1 or not LEAST_STEPS <= args.steps <= 1000:
        parser.error(f"--density {wrong} lies outside 0 to 1" if wrong else "--prompts or --steps is out of range")
    run = Comparison(args.prompts, args.steps, "cpu")
    profile = profile_scenes(run.model, run.profiled, steps=args.steps)
    for density in args.density:
        plan, more = search_budget(profile, density=density), (1 - density) / KEY_TILE
        equal = search_budget(profile, density=density + more)
        found = plan.density(query_tile=QUERY_TILE, key_tile=KEY_TILE)
        run.measure(plan, "ours_budget", f"density {density}")
        tail = plan_attention(plan, Counter(), tail=True)
        run.measure(tail, "ours_tail", f"density {density}, left-out tiles as their mean", density=found + more)
        run.measure(equal, "ours_budget", f"the tail's work as density, {density + more:.3f}")
        save_results("compensation", run.rows, unfinished=True)
    print("Written to", save_results("compensation", run.rows))


if __name__ == "__main__":
    main()
