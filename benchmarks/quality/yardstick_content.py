"""How much of a head's scores hangs on content, and how alike neighbours' values are: measured on the small Wan.

A score's structure is its mean over all pairs of tokens with the same offset in time, height and width, after each
query's mean was taken away, which the softmax does not see. What varies beside it is content.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from small_wan.model import AttentionHook, dense_attention
from small_wan.sample import sample, sigma_schedule
from small_wan.video import encode
from torch import Tensor

from benchmarks.quality.small_wan_runs import GRID, PROMPT_SEED, STEPS, load_model, random_scene, warmup_steps

EVERY = 5  # of the steps after the warm-up
Grid = tuple[int, int, int]


def offset_numbers(grid: Grid) -> Tensor:
    """Number of the offset from each token to each other one, (S, S): the same for pairs that lie alike."""
    axes = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij")).flatten(1)
    number = torch.zeros(axes.shape[1], axes.shape[1], dtype=torch.int64)
    for axis, size in zip(axes, grid, strict=True):
        number = number * (2 * size - 1) + (axis[None] - axis[:, None] + size - 1)
    return number


def content_share(scores: Tensor, offsets: Tensor) -> float:
    """Part of the variance of scores (S, S), each query's mean taken away, that offsets do not tell."""
    centred = scores - scores.mean(1, keepdim=True)
    flat, numbers = centred.flatten().double(), offsets.flatten()
    sums = torch.zeros(int(numbers.max()) + 1, dtype=torch.float64).index_add_(0, numbers, flat)
    counts = torch.bincount(numbers, minlength=len(sums)).clamp(min=1)
    rest = flat - (sums / counts)[numbers]
    return float(rest.square().sum() / flat.square().sum())


def alike_neighbours(v: Tensor, grid: Grid) -> float:
    """Correlation of the values v (S, D) of neighbours in height and width, each channel's mean taken away."""
    field = (v - v.mean(0)).unflatten(0, grid)
    pairs = ((field[:, 1:], field[:, :-1]), (field[:, :, 1:], field[:, :, :-1]))
    found = [(a * b).sum() / (a.square().sum() * b.square().sum()).sqrt() for a, b in pairs]
    return float(sum(found) / len(found))


def measure_content(prompts: int, steps: int = STEPS, grid: Grid = GRID) -> dict[str, list[float]]:
    """`share` and `alike` of every head of the small Wan, means over steps after the warm-up and over unseen prompts,
    in the order of layers and heads."""
    model, sigmas, offsets = load_model(), sigma_schedule(steps).tolist(), offset_numbers(grid)
    seen = set(sigmas[warmup_steps(steps) : -1 : EVERY])
    found: dict[tuple[int, int], dict[str, list[float]]] = defaultdict(lambda: {"share": [], "alike": []})

    def attention(sigma: float) -> AttentionHook:
        def hook(layer: int, q: Tensor, k: Tensor, v: Tensor, shape: Grid) -> Tensor:
            for head in range(q.shape[2]):
                own_q, own_k, own_v = (x[0, :, head].float() for x in (q, k, v))
                scores = own_q @ own_k.T * own_q.shape[1] ** -0.5
                found[layer, head]["share"].append(content_share(scores, offsets))
                found[layer, head]["alike"].append(alike_neighbours(own_v, grid))
            return dense_attention(layer, q, k, v, shape)

        return hook if sigma in seen else dense_attention

    for prompt in range(prompts):
        scene = random_scene(torch.Generator().manual_seed(PROMPT_SEED + prompt))
        sample(model, encode([scene]), grid, steps, seed=prompt, attention=attention)
    heads = [found[head] for head in sorted(found)]
    return {name: [round(sum(head[name]) / len(head[name]), 4) for head in heads] for name in ("share", "alike")}
