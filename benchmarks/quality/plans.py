"""Plans of the pack beside the rules of other methods (`peers.py`), at equal density on the small Wan.

All methods share the dense warm-up, the noise and the prompts, which no profile has seen. Methods that measure (ours,
STA, PSA) do so on the same two other prompts. Densities are of the attention calls after the warm-up, with each
method's own blocks; what comes closest to the wanted density is taken.

    python -m benchmarks.quality.plans
    python -m benchmarks.quality.plans --density 0.3 --methods ours_budget topk64 --prompts 2

Writes benchmarks/results/plans-<device>-<date>.json after every method; `figures.py plans` draws it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator

import torch
from sparse_vdit.kernels.patterns import Pattern
from sparse_vdit.plans.plan.plan import Band, Plan, uniform_plan
from sparse_vdit.plans.profile.profile import Profile
from sparse_vdit.plans.profile.rules import paper_choice, paper_kinds, saving
from sparse_vdit.plans.search.search import search_budget, search_paper
from torch import Tensor

from benchmarks.quality.peers import (
    PSA_BLOCK,
    RADIAL_BLOCK,
    Mask,
    Order,
    Svg,
    after_warmup,
    boxes,
    closest,
    psa_masks,
    radial,
    raster,
    sta_windows,
    topk,
)
from benchmarks.quality.quality import Comparison, closest_patterns
from benchmarks.quality.small_wan_runs import (
    FAMILY,
    GRID,
    KEY_TILE,
    MIN_STEPS,
    QUERY_TILE,
    STEPS,
    Attention,
    AttentionHook,
    dense_attention,
    profile_scenes,
)
from benchmarks.report.results import save_results

DENSITIES = (0.1, 0.2, 0.3, 0.5)
HALVINGS = 24
NO_EPSILON = 1e9  # the paper's limit out of the way, so that lambda alone sets the density
SINGLES = 2
NEAR = 0.01  # a method further from the wanted density has a row of ours beside it, of the density it has
STA_SIZES = range(8, 60, 3)  # densities of windows, in percent

Measured = Iterator[tuple[Plan | Attention, str, float | None]]
"""What to run, its rule in words, and its density where it is no plan of the pack."""


class Rules:
    """Every method at a density; profiles are made once, where a method needs them."""

    def __init__(self, run: Comparison):
        self.run, self._profiles = run, {}

    def profile(self, name: str, candidates: tuple[Pattern, ...] = (), order: Order | None = None) -> Profile:
        """Errors of candidates, over the pack's own without any, on the prompts for profiles."""
        if name not in self._profiles:
            parts = order and (order.index, order.query_tile, order.key_tile)
            self._profiles[name] = profile_scenes(
                self.run.model, self.run.profiled, steps=self.run.steps, candidates=candidates, order=parts
            )
        return self._profiles[name]

    def ours_budget(self, density: float) -> Measured:
        """One budget over all heads."""
        yield search_budget(self.profile("ours"), density=density), f"budget, density {density}", None

    def ours_paper(self, density: float) -> Measured:
        """Eq. 2 of Sparse-vDiT with the lambda that gives the density."""
        lam = paper_lambda(self.profile("ours"), density)
        yield search_paper(self.profile("ours"), lam, NO_EPSILON), f"paper, lambda {lam:.3g}", None

    def uniform(self, density: float) -> Measured:
        """Single patterns for all heads, a little denser than asked for."""
        head = self.profile("ours").header
        for pattern, _ in closest_patterns(density, SINGLES):
            plan = uniform_plan(
                FAMILY, head.layers, head.heads, head.head_dim, head.grid, pattern, sigma_high=head.bands[0][0]
            )
            yield plan, pattern.describe(), None

    def sta(self, density: float) -> Measured:
        """The window of the least error for each head and band, of five of one size; the size that comes closest."""
        sizes = [sta_windows(GRID, size / 100) for size in STA_SIZES]
        offered = tuple({window: None for windows in sizes for window in windows})
        profile = self.profile("sta", offered)
        choices = [sta_choice(profile, windows) for windows in sizes]
        densities = torch.tensor(profile.header.densities)
        choice = min(choices, key=lambda choice: abs(densities[choice].mean().item() - density))
        yield chosen_plan(profile, choice), "best of five windows", None

    def psa(self, density: float) -> Measured:
        """The sparsest mask of each head and band within a relative error, with the limit that gives the density."""
        order = boxes(GRID, PSA_BLOCK)
        profile = self.profile("psa", tuple(psa_masks(GRID)), order)
        alpha, choice = psa_choice(profile, density)
        found = torch.tensor(profile.header.densities)[choice].mean().item()
        yield table_attention(profile, choice, order), f"relative error up to {alpha:.3g}", found

    def radial(self, density: float) -> Measured:
        """One decay for all heads."""
        order = raster(GRID, RADIAL_BLOCK)
        mask = closest(density, [radial(order, GRID, decay / 40) for decay in range(1, 81)], order)
        yield one_for_all(order, mask), mask.describe(), order.density(mask)

    def svg(self, density: float) -> Measured:
        """Space or time, at each call."""
        rule = Svg(GRID, density)
        yield rule.attention(), rule.pattern.describe(), rule.density

    def topk64(self, density: float) -> Measured:
        """One k for all heads."""
        order = raster(GRID, KEY_TILE)
        pattern = topk(order, density)
        yield one_for_all(order, pattern), f"best {pattern.share:.3f} of the blocks", order.density(pattern)


METHODS: dict[str, Callable[[Rules, float], Measured]] = {
    name: getattr(Rules, name)
    for name in ("ours_budget", "ours_paper", "svg", "sta", "radial", "topk64", "psa", "uniform")
}


def bisected(density_at: Callable[[float], float], density: float, low: float, high: float) -> float:
    """Where a falling density is closest to the wanted one, on a logarithmic scale."""
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if density_at(middle) > density else (low, middle)
    return min((low, high), key=lambda value: abs(density_at(value) - density))


def sta_choice(profile: Profile, windows: list[Pattern]) -> Tensor:
    """Number of the window with the least mean squared error for each head, (bands, layers, heads)."""
    numbers = torch.tensor([profile.header.candidates.index(window) for window in windows])
    return numbers[profile.measures["mse"][..., numbers].argmin(-1)]


def paper_lambda(profile: Profile, density: float) -> float:
    """The lambda of Eq. 2 with which the paper's rule comes closest to a density."""
    densities = torch.tensor(profile.header.densities, dtype=torch.float64)
    allowed = saving(densities) & paper_kinds(profile.header.candidates)
    mse = profile.measures["mse"][profile.measured_bands()].masked_fill(~allowed, torch.inf)

    def density_at(lam: float) -> float:
        return densities[paper_choice(mse, densities, lam, NO_EPSILON)].mean().item()

    return bisected(density_at, density, 1e-8, 1e4)


def psa_choice(profile: Profile, density: float) -> tuple[float, Tensor]:
    """PSA's limit of the relative L2 error that comes closest to a density, and its choice (bands, layers, heads)."""
    densities = torch.tensor(profile.header.densities, dtype=torch.float64)
    errors = profile.measures["relative"].sqrt()

    def choose(alpha: float) -> Tensor:
        return densities.expand_as(errors).masked_fill(errors > alpha, torch.inf).argmin(-1)

    alpha = bisected(lambda alpha: densities[choose(alpha)].mean().item(), density, 1e-6, 10.0)
    return alpha, choose(alpha)


def chosen_plan(profile: Profile, choice: Tensor) -> Plan:
    """The plan of a choice (bands, layers, heads) among a profile's candidates."""
    head = profile.header
    plan = uniform_plan(FAMILY, head.layers, head.heads, head.head_dim, head.grid, head.candidates[0])
    bands = tuple(
        Band(*edges, tuple(map(tuple, band.tolist()))) for edges, band in zip(head.bands, choice, strict=True)
    )
    return dataclasses.replace(plan, patterns=head.candidates, bands=bands)


def table_attention(profile: Profile, choice: Tensor, order: Order) -> Attention:
    """Attention of a choice (bands, layers, heads) among a profile's candidates."""
    tables = [
        [tuple(profile.header.candidates[number] for number in row) for row in band] for band in choice.tolist()
    ]

    def attention(sigma: float) -> AttentionHook:
        band = next((n for n, (high, low) in enumerate(profile.header.bands) if low < sigma <= high), None)
        if band is None:
            return dense_attention
        return lambda layer, q, k, v, grid: order.run(q, k, v, tables[band][layer])

    return attention


def one_for_all(order: Order, pattern: Mask | Pattern) -> Attention:
    """Attention of one pattern for all heads."""
    return after_warmup(lambda layer, q, k, v, grid: order.run(q, k, v, (pattern,) * q.shape[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, nargs="+", default=DENSITIES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    wrong = [density for density in args.density if not 0 < density <= 1]
    if wrong or args.prompts < 1 or not MIN_STEPS <= args.steps <= 1000:
        parser.error(f"--density {wrong} lies outside 0 to 1" if wrong else "--prompts or --steps is out of range")
    rules = Rules(Comparison(args.prompts, args.steps, "cpu"))
    for density in args.density:
        for name in args.methods:
            for plan, rule, found in METHODS[name](rules, density):
                row = rules.run.measure(plan, name, rule, density=found, judge=False)
                row["wanted"] = density
                if not name.startswith("ours") and abs(row["density"] - density) > NEAR:
                    equal = search_budget(rules.profile("ours"), density=row["density"])
                    rule = f"budget, as dense as {name}"
                    rules.run.measure(equal, f"ours_beside_{name}", rule, judge=False)["wanted"] = density
                save_results("plans", rules.run.rows, unfinished=True)
    print("Written to", save_results("plans", rules.run.rows), f"({QUERY_TILE} x {KEY_TILE} tiles)")


if __name__ == "__main__":
    main()
