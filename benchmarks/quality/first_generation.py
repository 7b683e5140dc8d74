"""How far the first generation of a model stays behind the second: its plan is found on the way, the second's is kept.

    first        each layer is measured in the last step of the dense start and in the first step of every later band of
                 noise levels; before the step after it the plan is searched again. So the patch node does.
    noise only   each layer is measured once, spread over the dense start, and the plan is searched once
    second       the plan of all that the first generation has measured, on the next prompt and on its own again

Each prompt is one first generation, with another seed for its noise. Plans of one row have the same mean density over
all sparse steps. PSNR is against each video's own dense one; `gap_db` is how much less it is than that of the second
generation on the next prompt.

    python -m benchmarks.quality.first_generation
    python -m benchmarks.quality.first_generation --density 0.25 0.5 --prompts 2

Writes benchmarks/results/first_generation-<device>-<date>.json.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from small_wan.model import SmallWan
from small_wan.sample import SHIFT, sample, sigma_schedule
from small_wan.video import Scene, encode, to_video
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.plans.plan.plan import EVERY_SIGMA, Plan
from sparse_vdit.plans.profile.candidates import default_candidates
from sparse_vdit.plans.profile.profile import Profile
from sparse_vdit.plans.profile.profiler import Profiler
from sparse_vdit.plans.search.search import search_budget
from sparse_vdit.plans.view.metrics import psnr, together
from torch import Tensor

from benchmarks.quality.plan_transfer import scenes_from
from benchmarks.quality.quality import NOISE_SEED
from benchmarks.quality.small_wan_runs import (
    FAMILY,
    GRID,
    KEY_TILE,
    MIN_STEPS,
    MODEL,
    PROMPT_SEED,
    QUERY_TILE,
    WARMUP,
    Attention,
    AttentionHook,
    dense_attention,
    load_model,
    output_grams,
    plan_attention,
)
from benchmarks.report.results import save_results

LATER_BANDS = 3  # as the patch node has them
ROWS = 64  # that the patch node measures of a head in a video of so few tokens
STEPS = 12


def noise_bands() -> list[tuple[float, float]]:
    """(sigma_high, sigma_low) of the dense start, and of equal parts of the schedule below it."""
    left = [(1 - WARMUP) * (1 - number / LATER_BANDS) for number in range(LATER_BANDS)]
    edges = [SHIFT * part / (1 + (SHIFT - 1) * part) * (1 + 1e-5) for part in left]
    return list(itertools.pairwise([EVERY_SIGMA, *edges, 0.0]))


class FirstGeneration:
    """Attention of a generation that finds its plan on the way.

    Args:
        density: of the plan, on average over all sparse calls of the run.
        again: measure in the last dense step and search again at later bands; else spread, and searched once.
    """

    def __init__(self, model: SmallWan, density: float, sigmas: Sequence[float], again: bool = True):
        self.density, self.sigmas, self.again, self.layers = density, sigmas[:-1], again, model.num_layers
        self.grams = output_grams(model)
        self.profiler = Profiler(
            FAMILY, MODEL, model.num_layers, model.num_heads, 128, default_candidates(), noise_bands(), rows=ROWS,
            query_tile=QUERY_TILE, key_tile=KEY_TILE,
        )  # fmt: skip
        self.seen: set[tuple[int, int]] = set()
        self.used: list[float] = []  # density of each sparse step
        self._searched_from, self._running = 0, None

    def attention(self, sigma: float) -> AttentionHook:
        """Of the step that begins at a noise level."""
        band = self.profiler.band_at(sigma)
        if band and (self._running is None or (self.again and self._searched_from < len(self.seen))):
            self._find(band)
        attend = dense_attention if not band else self._running(sigma)
        if band:
            self.used.append(self._density(self.plan, sigma))

        def hook(layer: int, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int, int]) -> Tensor:
            if (band, layer) not in self.seen and self._wanted(layer, sigma):
                self.seen.add((band, layer))
                self.profiler.observe(layer, sigma, q, k, v, TokenGrid(*grid), self.grams[layer])
            return attend(layer, q, k, v, grid)

        return hook

    def _wanted(self, layer: int, sigma: float) -> bool:
        """Whether a layer is measured in the step at a noise level."""
        dense = [level for level in self.sigmas if self.profiler.band_at(level) == 0]
        if sigma not in dense:
            return True
        return sigma == dense[-1] if self.again else sigma == dense[layer % len(dense)]

    def _find(self, band: int) -> None:
        """Search the plan of this band and later ones, whose density makes up for what ran so far."""
        self._searched_from = len(self.seen)
        sparse = sum(self.profiler.band_at(level) != 0 for level in self.sigmas)
        density = (self.density * sparse - sum(self.used)) / (sparse - len(self.used))
        self.plan = search_budget(known(self.profiler.profile(), band), density=density)
        self._running = plan_attention(self.plan, Counter())

    def _density(self, plan: Plan, sigma: float) -> float:
        """Mean of a plan's heads at a noise level."""
        heads = plan.bands[plan.band_at(sigma)].heads
        of = plan.pattern_densities(None, QUERY_TILE, KEY_TILE)
        return sum(of[number] for row in heads for number in row) / sum(map(len, heads))


def known(profile: Profile, first: int) -> Profile:
    """The bands from a number on; layers that were not measured in one are as in the band above."""
    measures = {name: measured.clone() for name, measured in profile.measures.items()}
    samples, columns = profile.samples.clone(), profile.columns.clone()
    for band, layer in (samples[1:] == 0).nonzero().tolist():
        for tensor in (*measures.values(), columns, samples):
            tensor[band + 1, layer] = tensor[band, layer]
    return replace(
        profile, header=replace(profile.header, bands=profile.header.bands[first:]), votes=profile.votes[first:],
        measures={name: measured[first:] for name, measured in measures.items()},
        samples=samples[first:], columns=columns[first:],
    )  # fmt: skip


class Yardstick:
    """Videos of some prompts, each from another seed. The dense ones are generated once."""

    def __init__(self, prompts: int, steps: int):
        self.model, self.scenes, self.steps = load_model(), scenes_from(PROMPT_SEED, prompts), steps
        self.sigmas = sigma_schedule(steps).tolist()
        self.dense = [self.video(number, None) for number in range(prompts)]

    def video(self, number: int, attention: Attention | None) -> Tensor:
        """(frames, H, W, 3) in 0..1."""
        scene: Scene = self.scenes[number]
        seed = NOISE_SEED + number
        latent = sample(self.model, encode([scene]), GRID, self.steps, seed, attention)
        return ((to_video(latent).permute(0, 2, 3, 4, 1) + 1) / 2)[0]

    def psnr(self, number: int, attention: Attention) -> float:
        """Of a prompt's video, in dB."""
        return together(psnr(self.dense[number], self.video(number, attention)))

    def first(self, density: float, again: bool = True) -> tuple[list[float], list[FirstGeneration]]:
        """PSNR of each prompt's first generation, and what it has found."""
        found = [FirstGeneration(self.model, density, self.sigmas, again) for _ in self.scenes]
        return [self.psnr(number, one.attention) for number, one in enumerate(found)], found

    def second(self, density: float, profiles: Sequence[Profile]) -> list[float]:
        """PSNR of each prompt with the plan of a profile, dense start as ever."""
        plans = [search_budget(known(profile, 1), density=density) for profile in profiles]
        return [self.psnr(number, plan_attention(plan, Counter())) for number, plan in enumerate(plans)]


def with_gaps(rows: list[dict]) -> list[dict]:
    """The same rows, first generations with `gap_db` to the second generation of their density."""
    second = {row["wanted"]: row["psnr"] for row in rows if row["what"] == SECOND}
    return [
        row | {"gap_db": round(second[row["wanted"]] - row["psnr"], 2)}
        if row["wanted"] in second and row["what"] in (FIRST, NOISE_ONLY)
        else row
        for row in rows
    ]


FIRST, NOISE_ONLY = "first", "first, measured at noise only"
SECOND, SAME = "second, on the next prompt", "second, on the same prompt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, nargs="+", default=[0.35])
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    if not all(0 < density <= 1 for density in args.density):
        parser.error("--density has to be above 0 and at most 1")
    if args.prompts < 2 or not MIN_STEPS <= args.steps <= 1000:
        parser.error(f"--prompts has to be at least 2, --steps {MIN_STEPS} to 1000")
    run, rows = Yardstick(args.prompts, args.steps), []

    def add(what: str, wanted: float, density: float, videos: list[float]) -> None:
        rows.append({
            "model": MODEL, "grid": list(GRID), "steps": args.steps, "prompts": args.prompts, "rows": ROWS,
            "what": what, "wanted": wanted, "density": round(density, 4), "psnr": round(sum(videos) / len(videos), 2),
            "psnr_of_prompts": [round(value, 2) for value in videos],
        })  # fmt: skip
        print(rows[-1], flush=True)
        save_results("first_generation", with_gaps(rows), unfinished=True)

    for density in args.density:
        for what, again in ((NOISE_ONLY, False), (FIRST, True)):
            videos, found = run.first(density, again)
            used = [value for one in found for value in one.used]
            add(what, density, sum(used) / len(used), videos)
        profiles = [one.profiler.profile() for one in found]
        for what, of in ((SECOND, [*profiles[1:], profiles[0]]), (SAME, profiles)):
            add(what, density, density, run.second(density, of))
    print("Written to", save_results("first_generation", with_gaps(rows)))


if __name__ == "__main__":
    main()
