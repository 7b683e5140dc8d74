"""Makes q, k, v of heads whose attention is as sparse as that of measured heads of real models.

Scores are a structure, which hangs on the offset between query and key alone, and content, which does not:

    score = beta (sqrt(1 - c) structure + sqrt(c) content),  structure = f_t(dt) + f_h(dh) + f_w(dw)

Each f is a bump of cosines, so that q and k hold the features of its frequencies and q k^T gives it; both parts have a
variance of 1, c is the content's share of it, and beta is found so that a mean query needs a given part of
all keys for MASS of its softmax. What is limited most - the frame, the place in all frames, both - is the head's kind.
Values are a smooth field with noise, as neighbours have alike values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sparse_vdit.kernels.grid import TokenGrid
from torch import Tensor

from benchmarks.kernels.kernel_shapes import Shape
from benchmarks.quality.attention_statistics import MASS

KINDS = {  # weights of time, height and width in the structure: how much each axis is limited
    "frame": (1.0, 0.1, 0.1), "place": (0.1, 1.0, 1.0), "row": (0.1, 1.0, 0.1), "column": (0.1, 0.1, 1.0),
    "cube": (1.0, 1.0, 1.0),
}  # fmt: skip
PARTS = (3 / 32, 4 / 32, 5 / 32)  # of head_dim: frequencies of time, height and width; the rest is content
WIDTH = 0.06  # of an axis: the bumps' width before beta makes them narrower
COARSE = (4, 8, 8)  # tokens between the points of smooth fields
AT_ONCE = 256  # queries whose scores are sorted at a time
MAX_QUERIES = 2048  # that a head's density is taken from, both to find beta and to check it
SURE = 0.02  # standard error of that density, relative: as many queries are taken as it needs
GOLDEN = (math.sqrt(5) - 1) / 2
EVERY = 8  # of the queries is one of the few that a first guess is made with
HALVINGS, MAX_BETA = 16, 200.0
MAX_STEPS, STEP = 8, 1.05  # after the guess; the part by which beta is moved to see a slope
CLOSE = 0.005  # relative, of a density


@dataclass(frozen=True)
class Head:
    """What a head is to be like.

    Attributes:
        density: mean over queries of the smallest part of the keys that holds MASS of the softmax.
        kind: of KINDS.
    """

    density: float
    kind: str


@dataclass(frozen=True)
class Content:
    """How far heads are from static ones.

    Attributes:
        share: content's part of the variance of scores.
        alike: correlation of the values of neighbouring tokens.
    """

    share: float
    alike: float


def bump_features(size: int, count: int, device: torch.device) -> Tensor:
    """Features (size, 2 * count) whose product at two places is a smooth bump, 1 at offset 0 and nowhere periodic."""
    rates = torch.arange(1, count + 1, device=device) * (math.pi / size)  # half a turn, so that no place comes again
    weights = (-0.5 * (rates * WIDTH * size).square()).exp()
    angles = torch.arange(size, device=device)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1) * (weights / weights.sum()).sqrt().repeat(2)


def structure_features(grid: TokenGrid, kind: str, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features of queries and keys of the whole sequence, (S, structure channels); none of text."""
    counts = [int(part * head_dim) for part in PARTS]
    axes = [bump_features(size, count, device) for size, count in zip(grid.shape, counts, strict=True)]
    frames, height, width = grid.shape
    spread = [
        axes[0][:, None, None].expand(-1, height, width, -1),
        axes[1][None, :, None].expand(frames, -1, width, -1),
        axes[2][None, None].expand(frames, height, -1, -1),
    ]
    keys = F.pad(torch.cat([part.flatten(0, 2) for part in spread], 1), (0, 0, grid.prefix, grid.suffix))
    weights = torch.cat([torch.full((2 * n,), w, device=device) for n, w in zip(counts, KINDS[kind], strict=True)])
    return keys * weights, keys


def smooth_field(grid: TokenGrid, channels: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(S, channels) of about unit variance, alike at near places of the video; zero in text."""
    points = [-(-size // step) + 1 for size, step in zip(grid.shape, COARSE, strict=True)]
    low = torch.randn(1, channels, *points, device=device, generator=generator)
    field = F.interpolate(low, size=grid.shape, mode="trilinear", align_corners=True)[0].flatten(1).T
    return F.pad(field / field.std(), (0, 0, grid.prefix, grid.suffix))


def places(grid: TokenGrid, count: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Positions of queries of the video, at random, or spread so that no axis is seen in step with another."""
    video = grid.video_tokens
    if generator is not None:
        return grid.prefix + torch.randperm(video, device=device, generator=generator)[:count]
    steps = torch.arange(min(count, video), device=device, dtype=torch.float64)
    return grid.prefix + (steps * GOLDEN % 1 * video).long()


def scale_of(q: Tensor, k: Tensor) -> float:
    """Standard deviation of the scores of queries q (queries, D), each query's mean taken away."""
    scores = q @ k.T
    return (scores - scores.mean(1, keepdim=True)).square().mean().sqrt().item()


def density(scores: Tensor) -> float:
    """Mean over queries (rows) of the smallest part of the keys with MASS of the softmax."""
    return densities(ranked(scores)).mean().item()


def ranked(scores: Tensor) -> Tensor:
    """Scores (queries, keys) that fall along each row."""
    return torch.cat([part.sort(1, descending=True).values for part in scores.split(AT_ONCE)])


def densities(ranks: Tensor) -> Tensor:
    """Smallest part of the keys with MASS of the softmax for each query (row), of scores that fall along each row."""
    short = torch.cat([(part.softmax(1).cumsum(1) < MASS).sum(1) for part in ranks.split(AT_ONCE)])
    return (short + 1).clamp(max=ranks.shape[1]) / ranks.shape[1]


def sorted_density(ranks: Tensor) -> float:
    """Their mean."""
    return densities(ranks).mean().item()


def enough_queries(found: Tensor) -> int:
    """How many queries a density has to be taken from to be sure of it, by some queries' densities: where content
    counts the sparse heads' queries differ most."""
    return math.ceil((found.std() / found.mean() / SURE).item() ** 2)


def settled_beta(grid: TokenGrid, q: Tensor, k: Tensor, wanted: float) -> float:
    """What to multiply q (S, D) with for a density, from as many queries as it takes to be sure of it."""
    ranks = ranked(q[places(grid, AT_ONCE, q.device)] @ k.T)  # whatever they are multiplied with
    beta = find_beta(ranks, wanted)
    enough = min(MAX_QUERIES, enough_queries(densities(ranks * beta)))
    if enough <= AT_ONCE:
        return beta
    return find_beta(ranked(q[places(grid, enough, q.device)] @ k.T), wanted)


def find_beta(ranks: Tensor, wanted: float) -> float:
    """What to multiply scores that fall along each row with for a density, the nearest there is: by halving on a few
    queries, then on all of them along the slope that the few have."""
    few = ranks[::EVERY]
    beta = halved(few, wanted)
    for _ in range(MAX_STEPS):
        found = sorted_density(ranks * beta)
        if abs(found / wanted - 1) < CLOSE:
            break
        change = sorted_density(few * (beta * STEP)) / sorted_density(few * beta)
        if change >= 1:  # flat: one key of each query has it all, or all have the same
            break
        beta = min(MAX_BETA, beta * (wanted / found) ** (math.log(STEP) / math.log(change)))
    return beta


def halved(ranks: Tensor, wanted: float) -> float:
    """The same by halving alone."""
    low, high = 0.0, MAX_BETA
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if sorted_density(ranks * middle) > wanted else (low, middle)
    return (low + high) / 2


def make_head(
    grid: TokenGrid, head_dim: int, head: Head, content: Content, generator: torch.Generator, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (S, D) of one head."""
    device = generator.device
    structure_q, structure_k = structure_features(grid, head.kind, head_dim, device)
    channels = head_dim - structure_k.shape[1]
    field = smooth_field(grid, channels, generator, device)
    noise = [torch.randn(field.shape, device=device, generator=generator) for _ in range(2)]
    # of one length, as models that normalize queries and keys have them
    content_q, content_k = (F.normalize(field + part, dim=1) for part in noise)
    seen = places(grid, AT_ONCE, device)
    own = math.sqrt(1 - content.share) / scale_of(structure_q[seen], structure_k)
    other = math.sqrt(content.share) / scale_of(content_q[seen], content_k)
    q = torch.cat([structure_q * own, content_q * other], 1)
    k = torch.cat([structure_k, content_k], 1)
    beta = settled_beta(grid, q, k, head.density)
    smooth = smooth_field(grid, head_dim, generator, device)
    rough = torch.randn(smooth.shape, device=device, generator=generator)
    v = math.sqrt(content.alike) * smooth + math.sqrt(1 - content.alike) * rough
    return (q * (beta * math.sqrt(head_dim))).to(dtype), k.to(dtype), v.to(dtype)


def make_heads(
    shape: Shape, heads: list[Head], content: Content, device: torch.device, dtype: torch.dtype, seed: int = 7
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (1, S, H, D), each head with random numbers of its own."""
    size = (1, shape.grid.tokens, len(heads), shape.head_dim)
    q, k, v = (torch.empty(size, device=device, dtype=dtype) for _ in range(3))
    for number, head in enumerate(heads):
        generator = torch.Generator(device).manual_seed(seed * 1000 + number)
        parts = make_head(shape.grid, shape.head_dim, head, content, generator, dtype)
        for whole, part in zip((q, k, v), parts, strict=True):
            whole[0, :, number] = part
    return q, k, v


def measured_density(grid: TokenGrid, q: Tensor, k: Tensor, seed: int = 1) -> tuple[float, int]:
    """Density of a head q, k (S, D) at random queries, which beta was not found with but by chance, and how many."""
    generator = torch.Generator(q.device).manual_seed(seed)
    found, keys = torch.empty(0, device=q.device), k.float().T * q.shape[-1] ** -0.5
    for part in places(grid, MAX_QUERIES, q.device, generator).split(AT_ONCE):
        found = torch.cat([found, densities(ranked(q[part].float() @ keys))])
        if enough_queries(found) <= len(found):
            break
    return found.mean().item(), len(found)
