"""Profiling and sampling the small Wan with plans: what the demo and the quality benchmark share."""

from __future__ import annotations

import itertools
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from small_wan.model import AttentionHook, SmallWan, dense_attention
from small_wan.sample import WEIGHTS, ReadError, sample, sigma_schedule
from small_wan.sample import load_model as read_model
from small_wan.video import Scene, encode, random_scene, to_video
from sparse_vdit.kernels.attention import sparse_attention
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Pattern
from sparse_vdit.plans.plan.binding import BoundPlan
from sparse_vdit.plans.plan.plan import EVERY_SIGMA, Plan
from sparse_vdit.plans.profile.candidates import default_candidates
from sparse_vdit.plans.profile.profile import Profile
from sparse_vdit.plans.profile.profiler import Profiler
from torch import Tensor

# torch says on every start that bf16 input with fp32 weight has no fused RMS norm; it runs all the same
warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")

ROOT = Path(__file__).resolve().parents[2]

GRID = (9, 12, 15)  # odd sizes on purpose: 1,620 tokens fill no whole number of tiles
STEPS = 20
MIN_STEPS = 7  # of which a profile sees some in each of its bands
WARMUP = 0.2  # share of the steps that stays dense
# The kernels' tiles are 128 x 64 tokens. Against a real video's 32,760 tokens that is fine, against these 1,620 it is
# half a frame, so the small model gets tiles in proportion.
QUERY_TILE, KEY_TILE = 32, 16

FAMILY, MODEL = "wan", "small Wan"
PROMPT_SEED = 9001  # scenes to evaluate on; the shipped weights' training did not reach it

Attention = Callable[[float], AttentionHook]
"""What attends at a noise level."""

__all__ = [
    "FAMILY", "GRID", "KEY_TILE", "MIN_STEPS", "MODEL", "PROMPT_SEED", "QUERY_TILE", "ROOT", "STEPS", "WARMUP",
    "WEIGHTS", "Attention", "AttentionHook", "dense_attention", "generate", "load_model", "plan_attention",
    "profile_scenes", "random_scene", "warmup_sigma", "warmup_steps",
]  # fmt: skip


def load_model(device: str = "cpu") -> SmallWan:
    """The shipped model; ends the script where its file is missing or damaged."""
    try:
        return read_model(device=device)
    except (OSError, ReadError) as error:
        sys.exit(f"{error}; get a complete checkout")


def warmup_steps(steps: int = STEPS) -> int:
    """Steps that stay dense."""
    return round(WARMUP * steps)


def warmup_sigma(steps: int = STEPS) -> float:
    """Noise level below which attention may be sparse."""
    return sigma_schedule(steps)[warmup_steps(steps)].item() + 1e-6


def output_grams(model: SmallWan) -> list[Tensor]:
    """W_O^T W_O of each head of each layer, (heads, head_dim, head_dim)."""
    grams = []
    for block in model.blocks:
        per_head = block.self_attn.o.weight.unflatten(1, (model.num_heads, -1))  # (dim, H, D)
        grams.append(torch.einsum("ohd,ohe->hde", per_head, per_head))
    return grams


def profile_scenes(
    model: SmallWan, scenes: list[Scene], bands: int = 4, flow: str = "dense", steps: int = STEPS, every: int = 2,
    rows: int = 192, grid: tuple[int, int, int] = GRID, lam: float = 0.5, epsilon: float = 1.0,
    on_step: Callable[[], None] = lambda: None, candidates: Sequence[Pattern] = (),
    order: tuple[Tensor, int, int] | None = None, in_warmup: bool = False,
    tiles: tuple[int, int] = (QUERY_TILE, KEY_TILE),
) -> Profile:  # fmt: skip
    """Profile over one generation per scene; in dense flow every `every`-th step after the warm-up is measured, and
    there are at most as many bands as measured steps.

    Args:
        in_warmup: measure in one band, which is the warm-up.
        candidates: in the place of the pack's own.
        order: sequence position of each token as the candidates want them, query tile and key tile; they are then of
            one row of tokens.
        tiles: query and key tile where no order gives them.
    """
    sigmas = sigma_schedule(steps).tolist()
    first = warmup_steps(steps)
    bands = min(bands, (steps - first) // every)
    edges = [warmup_sigma(steps), *(sigmas[first + (steps - first) * n // bands] + 1e-6 for n in range(1, bands)), 0.0]
    edges = [EVERY_SIGMA, warmup_sigma(steps)] if in_warmup else edges
    index, *tiles = order or (slice(None), *tiles)
    profiler = Profiler(
        FAMILY, "small Wan of the tests", model.num_layers, model.num_heads, 128, candidates or default_candidates(),
        list(itertools.pairwise(edges)), rows=rows, query_tile=tiles[0], key_tile=tiles[1],
        flow=flow, prompts=[str(scene) for scene in scenes], lam=lam, epsilon=epsilon,
    )  # fmt: skip
    grams = output_grams(model)
    token_grid = TokenGrid(*grid) if order is None else TokenGrid(1, 1, len(order[0]))

    def attention(sigma: float) -> AttentionHook:
        measured = flow == "sequential" or sigmas.index(sigma) % every == 0

        def hook(layer: int, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int, int]) -> Tensor:
            out = None
            if measured and edges[-1] < sigma <= edges[0]:
                sorted_ = (x[:, index] for x in (q, k, v))
                out = profiler.observe(layer, sigma, *sorted_, token_grid, grams[layer])
            return dense_attention(layer, q, k, v, grid) if out is None else out

        return hook

    for number, scene in enumerate(scenes):
        sample(model, encode([scene]), grid, steps, seed=1000 + number, attention=attention, on_step=on_step)
    return profiler.profile()


def plan_attention(
    plan: Plan | Attention | None, calls: Counter[str], tiles: tuple[int, int] = (QUERY_TILE, KEY_TILE)
) -> Attention:
    """Attention by a plan at each noise level, dense where it has no band; counts `sparse` and `dense` calls. What is
    attention already stays as it is, and is not counted."""
    if callable(plan):
        return plan
    bound = plan and BoundPlan(plan, *tiles)

    def attention(sigma: float) -> AttentionHook:
        band = plan.band_at(sigma) if plan else None

        def hook(layer: int, q: Tensor, k: Tensor, v: Tensor, shape: tuple[int, int, int]) -> Tensor:
            lists, table = bound.lists(TokenGrid(*shape), q.device) if bound else (None, None)
            if band is None or all(lists.densities[number] >= 1 for number in table[band][layer]):
                calls["dense"] += 1
                return dense_attention(layer, q, k, v, shape)
            calls["sparse"] += 1
            return sparse_attention(q, k, v, lists, table[band][layer])

        return hook

    return attention


def generate(
    model: SmallWan, scenes: list[Scene], plan: Plan | Attention | None, seed: int, steps: int = STEPS,
    grid: tuple[int, int, int] = GRID, on_step: Callable[[], None] = lambda: None,
) -> tuple[Tensor, dict]:  # fmt: skip
    """Video (B, frames, H, W, 3) in 0..1 on the CPU, and what ran: sparse and dense calls, seconds."""
    calls: Counter[str] = Counter()
    start = time.perf_counter()
    latent = sample(model, encode(scenes), grid, steps, seed, plan_attention(plan, calls), on_step)
    report = {"sparse_calls": calls["sparse"], "dense_calls": calls["dense"], "seconds": time.perf_counter() - start}
    return (to_video(latent.cpu()).permute(0, 2, 3, 4, 1) + 1) / 2, report
