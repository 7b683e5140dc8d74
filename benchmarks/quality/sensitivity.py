"""What an error of attention does to the video: by layer and noise level, and whether such errors add up.

The patterns of a searched plan run in one layer and one band alone, all else dense. Its error there, as the search
predicts it, is held against two that are real:

    video     of the final latents, a whole generation for each layer and band
    forward   of the model's output in the steps of the band, from the dense trajectory: no generation of its own

What a real error is per predicted one is the sensitivity w of the budget rule, here relative to its mean. The sum over
all parts against the error of the whole plan says whether errors add up. Then plans are searched with w and without.

    python -m benchmarks.quality.sensitivity
    python -m benchmarks.quality.sensitivity --density 0.3 --prompts 2 --steps 12

Writes benchmarks/results/sensitivity-<device>-<date>.json.
"""

from __future__ import annotations

import argparse
from collections import Counter
from functools import cached_property

import torch
from small_wan.model import AttentionHook
from small_wan.sample import guided, load_model, sample, sigma_schedule
from small_wan.video import Scene, encode, to_video
from sparse_vdit.kernels.patterns import Pattern
from sparse_vdit.plans.plan.plan import Plan
from sparse_vdit.plans.profile.columns import ProfiledStripe
from sparse_vdit.plans.profile.profile import Profile
from sparse_vdit.plans.search.chosen import pattern_of
from sparse_vdit.plans.search.search import search_budget
from sparse_vdit.plans.view.metrics import video_psnr
from torch import Tensor

from benchmarks.quality.quality import NOISE_SEED, PROFILE_SEED
from benchmarks.quality.small_wan_runs import (
    GRID,
    LEAST_STEPS,
    MODEL,
    PROMPT_SEED,
    STEPS,
    Attention,
    dense_attention,
    plan_attention,
    profile_scenes,
    random_scene,
)
from benchmarks.report.results import save_results

BANDS = 2
EVERY = 2  # of the steps, whose forwards are measured: some of each band, as `profile_scenes` measures


class Injections:
    """Dense generations of some scenes, and what sparse attention in parts of the model does to them."""

    def __init__(self, scenes: list[Scene], steps: int, plan: Plan):
        self.model, self.steps, self.plan = load_model(), steps, plan
        self.scenes, self.context = scenes, encode(scenes)

    def generate(self, attention: Attention | None) -> Tensor:
        """Final latents."""
        return sample(self.model, self.context, GRID, self.steps, NOISE_SEED, attention)

    @cached_property
    def dense(self) -> Tensor:
        """Final latents of dense attention."""
        return self.generate(None)

    def only(self, plan: Plan, layer: int | None, band: int | None) -> Attention:
        """A plan in one layer and band, or in all where they are None; dense elsewhere."""
        sparse = plan_attention(plan, Counter())

        def attention(sigma: float) -> AttentionHook:
            if band is not None and plan.band_at(sigma) != band:
                return dense_attention
            hook = sparse(sigma)
            return lambda at, *call: (hook if layer in (None, at) else dense_attention)(at, *call)

        return attention

    def video_error(self, attention: Attention) -> tuple[float, float]:
        """Squared error of the final latents relative to their power, and PSNR in dB."""
        latents = self.generate(attention)
        videos = [((to_video(x).permute(0, 2, 3, 4, 1) + 1) / 2) for x in (self.dense, latents)]
        psnr = sum(video_psnr(a, b) for a, b in zip(*videos, strict=True)) / len(latents)
        return ((latents - self.dense).square().mean() / self.dense.square().mean()).item(), psnr

    def forward_errors(self) -> dict[tuple[int, int], float]:
        """By (layer, band): mean squared error of the guided output relative to its power, on dense trajectories."""
        sums: Counter[tuple[int, int]] = Counter()
        seen: Counter[int] = Counter()
        sigmas = sigma_schedule(self.steps).tolist()
        attention = {layer: self.only(self.plan, layer, None) for layer in range(self.plan.layers)}

        def watch(sigma: float, x: Tensor) -> None:
            band = self.plan.band_at(sigma)
            if band is None or sigmas.index(sigma) % EVERY:
                return
            exact = guided(self.model, x, sigma, self.context, dense_attention)
            seen[band] += 1
            for layer, parts in attention.items():
                error = guided(self.model, x, sigma, self.context, parts(sigma)) - exact
                sums[layer, band] += (error.square().mean() / exact.square().mean()).item()

        sample(self.model, self.context, GRID, self.steps, NOISE_SEED, watch=watch)
        return {place: total / seen[place[1]] for place, total in sums.items()}


def by_band(errors: dict[tuple[int, int], float], plan: Plan) -> Tensor:
    """Errors by (layer, band) as float64 (bands, layers)."""
    rows = [[errors[layer, band] for layer in range(plan.layers)] for band in range(len(plan.bands))]
    return torch.tensor(rows, dtype=torch.float64)


def sensitivities(real: Tensor, predicted: Tensor) -> Tensor:
    """w of the budget rule: real errors per predicted ones (bands, layers), of mean 1; (bands, layers, 1)."""
    found = real / predicted.clamp_min(1e-12)
    return (found / found.mean())[..., None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.3)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    if not 0 < args.density <= 1 or args.prompts < 1 or not LEAST_STEPS <= args.steps <= 1000:
        parser.error("--density, --prompts or --steps is out of range")
    scenes = [random_scene(torch.Generator().manual_seed(PROFILE_SEED + n)) for n in range(2)]
    profile = profile_scenes(load_model(), scenes, bands=BANDS, steps=args.steps)
    plan = search_budget(profile, density=args.density)
    evaluated = [random_scene(torch.Generator().manual_seed(PROMPT_SEED + n)) for n in range(args.prompts)]
    run = Injections(evaluated, args.steps, plan)
    rows: list[dict] = []

    def add(row: dict) -> None:
        rows.append({"model": MODEL, "grid": list(GRID), "steps": args.steps, "prompts": args.prompts} | row)
        print(rows[-1], flush=True)
        save_results("sensitivity", rows, unfinished=True)

    predicted = predicted_parts(profile, plan)
    forward = run.forward_errors()
    video = torch.zeros_like(predicted)
    for band in range(BANDS):
        for layer in range(plan.layers):
            video[band, layer], psnr = run.video_error(run.only(plan, layer, band))
            add({
                "layer": layer, "band": band, "predicted": predicted[band, layer].item(), "psnr": round(psnr, 2),
                "video": video[band, layer].item(), "forward": forward[layer, band],
            })  # fmt: skip
    whole, psnr = run.video_error(run.only(plan, None, None))
    add({"method": "whole plan", "density": args.density, "predicted": predicted.sum().item(), "video": whole,
         "sum_of_parts": video.sum().item(), "psnr": round(psnr, 2)})  # fmt: skip
    for name, real in (("video", video), ("forward", by_band(forward, plan))):
        weights = sensitivities(real, predicted)
        for density in (0.2, args.density):
            found = search_budget(profile, density=density, weights=weights)
            _, psnr = run.video_error(run.only(found, None, None))
            plain = run.video_error(run.only(search_budget(profile, density=density), None, None))[1]
            add({"method": f"w by {name}", "density": density, "psnr": round(psnr, 2), "psnr_without": round(plain, 2)})
    print("Written to", save_results("sensitivity", rows))


def predicted_parts(profile: Profile, plan: Plan) -> Tensor:
    """Errors that the search counts for a plan, relative to the power of all heads, float64 (bands, layers)."""
    errors, power = profile.measures["projected"], profile.measures["power"][..., 0]
    choice = torch.zeros(power.shape, dtype=torch.int64)
    for place in torch.ones_like(choice).nonzero().tolist():
        choice[tuple(place)] = candidate_of(profile, tuple(place), plan.pattern(*place))
    return errors.gather(-1, choice[..., None])[..., 0].sum(-1) / power.sum()


def candidate_of(profile: Profile, place: tuple[int, int, int], pattern: Pattern) -> int:
    """Number of the candidate that a head's pattern is, the head by (band, layer, head)."""
    candidates = profile.header.candidates
    if pattern in candidates:
        return candidates.index(pattern)
    stripes = (number for number, offered in enumerate(candidates) if isinstance(offered, ProfiledStripe))
    return next(number for number in stripes if pattern_of(profile, place, number) == pattern)


if __name__ == "__main__":
    main()
