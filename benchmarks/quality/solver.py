"""How long a search takes at full size, and how near its choice is to the best: every kind of target on one profile.

The profile is made up: each head's error falls with the density of a pattern and hangs on its kind, and heads weigh
unequally. Measured is all of `search_budget`, from a profile in memory to a plan.

    python -m benchmarks.quality.solver

Writes benchmarks/results/solver-cpu-<date>.json.
"""

from __future__ import annotations

import argparse
import time

import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.patterns import Skip
from sparse_vdit.kernels.tiling import KEY_TILE, QUERY_TILE, Tiling
from sparse_vdit.plans.profile.candidates import default_candidates
from sparse_vdit.plans.profile.columns import Cells, ProfiledStripe
from sparse_vdit.plans.profile.profile import MEASURES, Profile, ProfileHeader
from sparse_vdit.plans.search.search import search_budget

from benchmarks.quality.small_wan_runs import FAMILY
from benchmarks.report.results import save_results

BANDS, LAYERS, HEADS, HEAD_DIM = 8, 40, 40, 128
GRID = (21, 30, 52)
TARGETS = (
    {"density": 0.2}, {"density": 0.35}, {"error": 0.05}, {"error": 0.1}, {"speedup": 2.0}, {"speedup": 4.0},
    {"preset": "faithful"}, {"preset": "balanced"}, {"preset": "fast"},
)  # fmt: skip


def made_up_profile() -> Profile:
    """As many heads as Wan 14B has, in as many bands as a plan may sensibly have."""
    candidates = default_candidates()
    stripes = [pattern for pattern in candidates if isinstance(pattern, ProfiledStripe)]  # which are last
    builder = TileListBuilder(TokenGrid(*GRID))
    for pattern in candidates[: -len(stripes)]:
        builder.add(pattern)
    cells = Cells(Tiling(TokenGrid(*GRID), ProfiledStripe.order, QUERY_TILE, KEY_TILE))
    densities = (*builder.build().densities, *(cells.density(pattern.share) for pattern in stripes))
    bands = tuple((1 - n / BANDS, 1 - (n + 1) / BANDS) for n in range(BANDS))
    header = ProfileHeader(
        FAMILY, "made up", LAYERS, HEADS, HEAD_DIM, GRID, QUERY_TILE, KEY_TILE, candidates, densities, bands,
        parameters={"rows": 256},
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    heads = (BANDS, LAYERS, HEADS, 1)
    power = drawn(*heads).exp()
    steepness = (0.7 * drawn(*heads) + 1.5).exp()
    by_kind = (0.8 * drawn(*heads[:-1], len(candidates))).exp()
    left = 1 - torch.tensor(densities, dtype=torch.float64)
    errors = 0.1 * power * by_kind * left * torch.exp(steepness * (left - 1))
    skips = torch.tensor([isinstance(pattern, Skip) for pattern in candidates])
    errors = torch.where(skips, power, errors)
    measures = {name: torch.ones_like(errors) for name in MEASURES}
    measures |= {"projected": errors, "power": power.expand_as(errors), "square": 2 * errors.square()}
    columns = drawn(*heads[:-1], len(cells.boxes)).square().float()
    samples = torch.ones(BANDS, LAYERS, dtype=torch.int64)
    return Profile(header, measures, torch.zeros_like(errors), samples, columns)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    profile = made_up_profile()
    rows = []
    for target in TARGETS:
        begin = time.perf_counter()
        plan = search_budget(profile, **target)
        seconds = time.perf_counter() - begin
        told = plan.provenance.parameters
        ((name, value),) = target.items()
        row = {"target": name, "value": value, "bands": BANDS, "layers": LAYERS, "heads": HEADS}
        row |= {"candidates": len(profile.header.candidates), "seconds": round(seconds, 3), "gap": told["gap"]}
        row |= {"density": told["mean_density"], "speedup": told["attention_speedup"], "error": told["predicted_error"]}
        rows.append(row)
        print(row)
    print("Written to", save_results("solver", rows))


if __name__ == "__main__":
    main()
