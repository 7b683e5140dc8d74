"""How other methods choose what a head attends, written from their papers and run through the same kernels.

Each method becomes attention hooks for the small Wan at a wanted density. Sizes of blocks are in proportion to the
small video, as the pack's own tiles are (32 queries x 16 keys stand for 128 x 64).

    svg     Sparse VideoGen (arXiv 2502.01776): each head at each call a band in space or in time, by error on some rows
    sta     Sliding Tile Attention (2502.04507): each head the best of five kinds of windows of one size
    radial  Radial Attention (2506.19852): all heads a band that halves with every doubling of the distance in time
    psa     PSA (2609.37001): each head the sparsest periodic window within a relative error, one limit for all heads
    topk64  pooled top-k on raster blocks (SLA, 2509.24006; Sol-Attn, 2607.24027): one k for all heads
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from sparse_vdit.kernels.attention import sparse_attention
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder, pattern_density
from sparse_vdit.kernels.patterns import Diagonal, MultiDiagonal, Pattern, Routed
from sparse_vdit.kernels.tiling import Tiling
from torch import Tensor

from benchmarks.quality.small_wan_runs import (
    KEY_TILE,
    QUERY_TILE,
    Attention,
    AttentionHook,
    dense_attention,
    warmup_sigma,
)

Grid = tuple[int, int, int]
SVG_ROWS = 64
PSA_BLOCK = (3, 2, 3)  # 6 x 5 blocks in a frame, as 3 x 8 x 16 tokens are in one of 45 x 80
RADIAL_BLOCK = 32
MORE = 0.08  # how far from the wanted density a window of STA may be


@dataclass(frozen=True)
class Mask(Pattern):
    """A mask of tiles that is no pattern of the pack."""

    kind: ClassVar[str] = "mask"
    name: str = ""
    tiles: Tensor = field(default_factory=lambda: torch.ones(0, 0, dtype=torch.bool), compare=False, repr=False)

    def tile_mask(self, tiling: Tiling) -> Tensor:
        """The mask, and the own tile."""
        own = torch.arange(tiling.key_tiles) * tiling.key_tile // tiling.query_tile
        return self.tiles | (own == torch.arange(tiling.query_tiles)[:, None])

    def describe(self) -> str:
        """Its name."""
        return self.name


@dataclass(frozen=True)
class Order:
    """A sequence sorted as a method wants it and cut into its blocks.

    Attributes:
        index: position in the model's sequence of each sorted token, (tokens,).
        query_tile, key_tile: tokens of a block.
    """

    index: Tensor
    query_tile: int
    key_tile: int
    _lists: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def grid(self) -> TokenGrid:
        """All tokens in one row, so that the tiles are consecutive tokens."""
        return TokenGrid(1, 1, len(self.index))

    def density(self, pattern: Pattern) -> float:
        """Of a pattern, computed pairs / all pairs."""
        return pattern_density(pattern, self.grid, self.query_tile, self.key_tile)

    def run(self, q: Tensor, k: Tensor, v: Tensor, patterns: tuple[Pattern, ...]) -> Tensor:
        """Attention (B, S, H, D) of heads with a pattern each."""
        if patterns not in self._lists:
            builder = TileListBuilder(self.grid, self.query_tile, self.key_tile)
            numbers = [builder.add(pattern) for pattern in patterns]
            self._lists[patterns] = builder.build(), numbers
        out = torch.empty_like(q)
        out[:, self.index] = sparse_attention(*(x[:, self.index] for x in (q, k, v)), *self._lists[patterns])
        return out


def raster(grid: Grid, tile: int) -> Order:
    """Tokens as the model has them, row after row and frame after frame."""
    return Order(torch.arange(math.prod(grid)), tile, tile)


def places_first(grid: Grid, query_tile: int, key_tile: int) -> Order:
    """All frames of a place, then the next place."""
    index = torch.arange(math.prod(grid)).view(grid[0], -1).T.flatten()
    return Order(index, query_tile, key_tile)


def boxes(grid: Grid, block: Grid) -> Order:
    """Boxes of frames x height x width tokens, one after another.

    Raises:
        ValueError: boxes that do not fill the grid.
    """
    if any(size % part for size, part in zip(grid, block, strict=True)):
        raise ValueError(f"boxes of {block} do not fill a grid of {grid}")
    (t, h, w), (bt, bh, bw) = grid, block
    index = torch.arange(math.prod(grid)).view(t // bt, bt, h // bh, bh, w // bw, bw)
    return Order(index.permute(0, 2, 4, 1, 3, 5).flatten(), math.prod(block), math.prod(block))


def after_warmup(hook: AttentionHook) -> Attention:
    """Dense above the noise level at which the warm-up ends."""
    return lambda sigma: hook if sigma <= warmup_sigma() else dense_attention


def closest(density: float, candidates: Sequence[Pattern], order: Order) -> Pattern:
    """The candidate whose density is closest to the wanted one."""
    return min(candidates, key=lambda pattern: abs(order.density(pattern) - density))


# --- Sparse VideoGen -------------------------------------------------------------------------------------------------


def svg_width(tokens: int, density: float) -> float:
    """Half-width in tokens of a band that is this part of all pairs (without text, in the paper's code)."""
    return tokens * (1 - math.sqrt(1 - density))


def band(order: Order, width: float, sink: int) -> Mask:
    """Blocks whose centres are less than a width apart, and those that begin within the first `sink` tokens."""
    tiling = Tiling(order.grid, "spatial", order.query_tile, order.key_tile)
    queries = (torch.arange(tiling.query_tiles) + 0.5) * order.query_tile
    keys = (torch.arange(tiling.key_tiles) + 0.5) * order.key_tile
    near = (queries[:, None] - keys).abs() < width
    return Mask(f"band of {width:.0f} tokens", near | (keys - order.key_tile / 2 < sink))


class Svg:
    """Heads with the smaller error of two: a band of neighbouring frames, or the same band with places first."""

    def __init__(self, grid: Grid, density: float):
        frame = grid[1] * grid[2]
        self.orders = [
            Order(torch.arange(math.prod(grid)), QUERY_TILE, KEY_TILE), places_first(grid, QUERY_TILE, KEY_TILE)
        ]  # fmt: skip
        tokens = math.prod(grid)
        bands = [band(self.orders[0], svg_width(tokens, share / 200), frame) for share in range(1, 200)]
        self.pattern = closest(density, bands, self.orders[0])
        self.density = self.orders[0].density(self.pattern)
        judged = band(self.orders[0], 2 * frame, frame).tiles
        self.masks = torch.stack([self._token_mask(judged, order) for order in self.orders])
        self.generator = torch.Generator().manual_seed(0)

    def _token_mask(self, tiles: Tensor, order: Order) -> Tensor:
        """bool (tokens, tokens) in the model's order; the ragged end attends and is attended."""
        whole = torch.ones(len(order.index), len(order.index), dtype=torch.bool)
        mask = tiles.repeat_interleave(order.query_tile, 0).repeat_interleave(order.key_tile, 1)
        whole[: mask.shape[0], : mask.shape[1]] = mask
        back = order.index.argsort()
        return whole[back][:, back]

    def in_time(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Which of q, k, v (N, S, D) have the smaller error with places first: bool (N,)."""
        rows = torch.randperm(q.shape[1], generator=self.generator)[:SVG_ROWS]
        scores = q[:, rows].float() @ k.float().mT * q.shape[-1] ** -0.5
        exact = scores.softmax(-1) @ v.float()
        errors = [
            (scores.masked_fill(~mask[rows], -torch.inf).softmax(-1) @ v.float() - exact).square().mean((1, 2))
            for mask in self.masks
        ]
        return errors[1] < errors[0]

    def attention(self) -> Attention:
        """Hooks of a run."""

        def hook(layer: int, q: Tensor, k: Tensor, v: Tensor, grid: Grid) -> Tensor:
            own = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]  # (N, S, D): a head of a video by itself
            out, time = torch.empty_like(own[0]), self.in_time(*own)
            for order, chosen in zip(self.orders, (~time, time), strict=True):
                if chosen.any():
                    out[chosen] = order.run(*(x[chosen][:, :, None] for x in own), (self.pattern,))[:, :, 0]
            return out.unflatten(0, (len(q), -1)).transpose(1, 2)

        return after_warmup(hook)


# --- Radial Attention ------------------------------------------------------------------------------------------------


def radial_token_mask(grid: Grid, decay: float) -> Tensor:
    """Tokens that attend each other, bool (tokens, tokens): neighbouring frames wholly, others in a band around the own
    place that halves with every doubling of the distance; where it would be narrower than a block, fewer frames."""
    frames, frame = grid[0], grid[1] * grid[2]
    mask = torch.zeros(frames, frame, frames, frame, dtype=torch.bool)
    apart = (torch.arange(frame)[:, None] - torch.arange(frame)).abs()
    for i, j in itertools.product(range(frames), repeat=2):
        distance = abs(i - j)
        if distance <= 1 or j == 0:
            mask[i, :, j] = True
            continue
        length = 2 ** frame.bit_length() / 2 ** distance.bit_length()
        if length < RADIAL_BLOCK and distance % round(RADIAL_BLOCK / length):
            continue
        mask[i, :, j] = apart <= max(length * decay, RADIAL_BLOCK)
    return mask.view(frames * frame, -1)


def radial(order: Order, grid: Grid, decay: float) -> Mask:
    """Blocks of which over 60 % of the columns that are not empty are over a third full."""
    tokens = radial_token_mask(grid, decay)
    whole = len(tokens) // RADIAL_BLOCK * RADIAL_BLOCK
    parts = tokens[:whole, :whole].view(whole // RADIAL_BLOCK, RADIAL_BLOCK, -1, RADIAL_BLOCK).float().mean(1)
    empty, full = (parts == 0).sum(-1), (parts > 1 / 3).sum(-1)
    return Mask(f"radial, decay {decay:g}", full > 0.6 * (RADIAL_BLOCK - empty).clamp_min(1))


# --- windows ---------------------------------------------------------------------------------------------------------


def sta_windows(grid: Grid, density: float) -> list[Pattern]:
    """The five kinds of STA's search, each in the size closest to a density, without those that have none near it: a
    place through all time, frames as a whole, a cube, rows and columns through all time."""
    sizes = [n / 40 for n in range(41)]
    kinds = [
        [MultiDiagonal(size, size) for size in sizes],
        [Diagonal(frames) for frames in range(grid[0])],
        [Diagonal(grid[0] // 4, size, size) for size in sizes],
        [MultiDiagonal(size, None) for size in sizes],
        [MultiDiagonal(None, size) for size in sizes],
    ]
    wanted = TokenGrid(*grid)

    def apart(pattern: Pattern) -> float:
        return abs(pattern_density(pattern, wanted, QUERY_TILE, KEY_TILE) - density)

    return [pattern for pattern in (min(kind, key=apart) for kind in kinds) if apart(pattern) <= MORE]


def psa_masks(grid: Grid) -> list[Mask]:
    """PSA's family in blocks: |dt - to| mod ts < tw, |dw| < sw and |dh| < sh, with the sizes of the paper as far as the
    grid has them.

    Its equation has one distance in space with a width and a period, |ds - so| mod ss < sw. Read so, most of the masks
    that its appendix counts, such as (7, 0, inf)(3, 0, 3), would be dense. Read as a width and a height they have the
    density that the paper reports, a fact that a test holds.
    """
    frames, rows, columns = (size // part for size, part in zip(grid, PSA_BLOCK, strict=True))
    spaces = itertools.product(range(1, columns + 1), [n for n in (1, 3, 5, 6) if n <= rows])
    masks, seen = [], set()
    for time, space in itertools.product(_windows_in_time(frames), spaces):
        mask = psa_mask((frames, rows, columns), time, space)
        key = mask.numpy().tobytes()
        if key not in seen and not mask.all():
            seen.add(key)
            masks.append(Mask(f"time {time}, {space[0]} x {space[1]} blocks", mask))
    return masks


def _windows_in_time(size: int) -> list[tuple[int, int, int | None]]:
    widths = range(1, size + 1)
    found = [(w, o, None) for w in widths for o in range(-2, 3)]
    return found + [(w, 0, p) for p in (1, 2, 3) for w in widths if w < p or p == 1 == w]


def psa_mask(blocks: Grid, time: tuple[int, int, int | None], space: tuple[int, int]) -> Tensor:
    """Blocks that attend each other, bool (blocks, blocks), frame after frame and row after row.

    Args:
        blocks: in time, height and width.
        time: width tw, shift to and period ts, None for none.
        space: width sw and height sh.
    """
    axes = [axis.flatten() for axis in torch.meshgrid(*(torch.arange(n) for n in blocks), indexing="ij")]
    return psa_near(*(x[None] - x[:, None] for x in axes), time, space)


def psa_near(
    dt: Tensor, dh: Tensor, dw: Tensor, time: tuple[int, int, int | None], space: tuple[int, int]
) -> Tensor:
    """Whether blocks at these distances in time, height and width attend each other."""
    width, shift, period = time
    away = (dt - shift).abs()
    near = (away if period is None else away % period) < width
    return near & (dw.abs() < space[0]) & (dh.abs() < space[1])


def topk(order: Order, density: float) -> Routed:
    """Top-k with the k closest to a density."""
    tiles = len(order.index) // order.key_tile
    return closest(density, [Routed(n / tiles, order="spatial") for n in range(1, tiles + 1)], order)
