"""The definitions of the patterns, written out token by token, and the cases that tests compare on odd grids."""

import math
from functools import cache

import pytest
import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal, MultiDiagonal, Union, VerticalStripe

FIRST_FRAME = (0, 0, 0, 1, 0, 1)
MIDDLE = (0.4, 0.6, 0.25, 0.5, 0.3, 0.3)
WINDOWS = [
    Diagonal(),
    Diagonal(frames=1),
    Diagonal(frames=2, height=0.2, width=0.15),
    Diagonal(frames=1, width=0.25, order="spatiotemporal"),
    Diagonal(frames=10_000),
    MultiDiagonal(),
    MultiDiagonal(height=0.1, width=0.1),
    MultiDiagonal(height=None, width=0.2),
    MultiDiagonal(height=0.3, width=None, order="spatial"),
    Diagonal(shift=-1),
    Diagonal(frames=1, width=0.2, shift=2),
    MultiDiagonal(height=0.1, width=0.1, every=2, order="spatial"),
    MultiDiagonal(height=0.0, width=None, height_period=0.4),
    MultiDiagonal(height=0.05, width=0.1, every=3, height_period=0.5, width_period=0.35, order="spatial"),
]
UNIONS = [
    Union((Diagonal(), MultiDiagonal(order="spatial"))),
    Union((Diagonal(0, 0.2, 0.2), MultiDiagonal(0.1, None, order="spatial"), VerticalStripe())),
]
STRIPES = [
    VerticalStripe(),
    VerticalStripe((FIRST_FRAME, MIDDLE)),
    VerticalStripe(((1, 1, 0, 0, 1, 1),), order="spatiotemporal"),
]
TILES = [(16, 8), (32, 16), (128, 64)]
CASES = [
    (TokenGrid(5, 9, 13, 5, 3), (128, 64)),
    (TokenGrid(5, 7, 11, 5, 3), (16, 8)),
    (TokenGrid(5, 7, 11, 5, 3), (32, 16)),
    (TokenGrid(5, 11, 6, 0, 3), (32, 16)),
    (TokenGrid(1, 7, 5), (16, 8)),
    (TokenGrid(3, 2, 2, 5), (16, 8)),  # smaller than a query tile
    (TokenGrid(3, 2, 2, 5), (4, 2)),
    (TokenGrid(17, 3, 1), (16, 8)),
    (TokenGrid(2, 33, 5, 5), (32, 16)),
]
every_case = pytest.mark.parametrize(
    "grid, tiles", CASES, ids=[f"{grid}-{tiles}".replace(" ", "") for grid, tiles in CASES]
)
every_window = pytest.mark.parametrize("pattern", WINDOWS, ids=repr)
every_stripe = pytest.mark.parametrize("pattern", STRIPES, ids=repr)


def reaches(pattern, grid):
    """(half-width, shift, period) in tokens on (t, h, w) by the text of the two window patterns; None for no limit."""

    def tokens(fraction, size):
        return None if fraction is None else int(fraction * size + 0.5)

    def period(fraction, size):
        return None if fraction is None else max(1, tokens(fraction, size))

    height, width = tokens(pattern.height, grid.height), tokens(pattern.width, grid.width)
    if isinstance(pattern, Diagonal):
        return (pattern.frames, pattern.shift, None), (height, 0, None), (width, 0, None)
    frames = (None, 0, None) if pattern.every == 1 else (0, 0, pattern.every)
    periods = period(pattern.height_period, grid.height), period(pattern.width_period, grid.width)
    return frames, (height, 0, periods[0]), (width, 0, periods[1])


def sees(query, key, reach, size):
    """Whether a token sees a place on an axis: a window, repeated with a period or shifted inside at the borders."""
    half, shift, period = reach
    if half is None or 2 * half + 1 >= size:
        return True
    if period is not None:
        return any(abs(key - query - shift - n * period) <= half for n in range(-size, size + 1))
    low, high = query + shift - half, query + shift + half
    while low < 0:
        low, high = low + 1, high + 1
    while high > size - 1:
        low, high = low - 1, high - 1
    return low <= key <= high


def seen_axes(pattern, grid):
    """What is seen on each axis, bool (size, size): query, key."""
    return [
        torch.tensor([[sees(a, b, reach, size) for b in range(size)] for a in range(size)])
        for reach, size in zip(reaches(pattern, grid), grid.shape, strict=True)
    ]


@cache
def seen_pairs(pattern, grid):
    """Pairs of video tokens that a window pattern must attend: bool (video, video) in raster order."""
    t, h, w = seen_axes(pattern, grid)
    pairs = t[:, None, None, :, None, None] & h[:, None, None, :, None] & w[:, None, None, :]
    return pairs.reshape(grid.video_tokens, grid.video_tokens)


def tile_boxes(index, tile, count, grid):
    """Smallest and largest (t, h, w) of each tile of a token order."""
    area = grid.height * grid.width
    boxes = []
    for number in range(count):
        raster = [n - grid.prefix for n in index[number * tile : (number + 1) * tile]]
        axes = ([n // area for n in raster], [n % area // grid.width for n in raster], [n % grid.width for n in raster])
        boxes.append([(min(axis), max(axis)) for axis in axes])
    return boxes


@cache
def tiles_of(pattern, grid, tiles):
    """(tile mask, query boxes, key boxes, index) of a pattern; the boxes are worked out here."""
    query, key = tiles
    tiling = pattern.tiling(grid, query, key)
    index = tiling.index.tolist()
    query_boxes = tile_boxes(index, query, grid.video_tokens // query, grid)
    return pattern.tile_mask(tiling), query_boxes, tile_boxes(index, key, grid.video_tokens // key, grid), index


@cache
def drawn(pattern, grid, tiles):
    """The pattern's own picture, kept because several tests look at it."""
    return pattern.draw(grid, *tiles)


@cache
def video_part(pattern, grid, tiles):
    """Drawn pairs of video tokens, bool (video, video) in raster order."""
    end = grid.prefix + grid.video_tokens
    return drawn(pattern, grid, tiles)[grid.prefix : end, grid.prefix : end] == 255


def column_ranges(box, grid):
    """First and last place of a stripe's column on (t, h, w): fractions of the axes, ends included."""
    ranges = []
    for axis, size in enumerate(grid.shape):
        low, high = (min(size - 1, math.floor(bound * size)) for bound in box[2 * axis : 2 * axis + 2])
        ranges.append((low, high))
    return ranges


def meet(one, other):
    """Whether two boxes of (first, last) on three axes have a place in common."""
    return all(a0 <= b1 and b0 <= a1 for (a0, a1), (b0, b1) in zip(one, other, strict=True))
