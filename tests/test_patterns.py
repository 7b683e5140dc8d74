"""Every pattern against its definition, written out here token by token on odd grids."""

import itertools
import math
from functools import cache

import pytest
import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import pattern_density
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Skip, VerticalStripe

FIRST_FRAME = (0, 0, 0, 1, 0, 1)
MIDDLE = (0.4, 0.6, 0.25, 0.5, 0.3, 0.3)
WINDOWS = [
    Diagonal(),
    Diagonal(frames=1),
    Diagonal(frames=2, height=0.2, width=0.15),
    Diagonal(frames=1, width=0.25, order="deep"),
    Diagonal(frames=10_000),
    MultiDiagonal(),
    MultiDiagonal(height=0.1, width=0.1),
    MultiDiagonal(height=None, width=0.2),
    MultiDiagonal(height=0.3, width=None, order="flat"),
]
STRIPES = [
    VerticalStripe(),
    VerticalStripe((FIRST_FRAME, MIDDLE)),
    VerticalStripe(((1, 1, 0, 0, 1, 1),), order="deep"),
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


# --- the definitions ---------------------------------------------------------------------------------------------


def half_widths(pattern, grid):
    """Half-width in tokens on (t, h, w) by the text of the two window patterns; None for all of an axis."""

    def tokens(fraction, size):
        return None if fraction is None else int(fraction * size + 0.5)

    frames = pattern.frames if isinstance(pattern, Diagonal) else None
    return frames, tokens(pattern.height, grid.height), tokens(pattern.width, grid.width)


def window(place, half, size):
    """First and last place that a token sees on an axis: a centred window, shifted inside at the borders."""
    if half is None or 2 * half + 1 >= size:
        return 0, size - 1
    low, high = place - half, place + half
    while low < 0:
        low, high = low + 1, high + 1
    while high > size - 1:
        low, high = low - 1, high - 1
    return low, high


@cache
def seen_pairs(pattern, grid):
    """Pairs of video tokens that a window pattern must attend: bool (video, video) in raster order."""
    axes = []
    for half, size in zip(half_widths(pattern, grid), grid.shape, strict=True):
        axis = torch.zeros(size, size, dtype=torch.bool)
        for a in range(size):
            low, high = window(a, half, size)
            for b in range(size):
                axis[a, b] = low <= b <= high
        axes.append(axis)
    t, h, w = axes
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


# --- windows -----------------------------------------------------------------------------------------------------


@every_window
@every_case
def test_every_pair_of_the_window_is_attended(pattern, grid, tiles):
    missed = seen_pairs(pattern, grid) & ~video_part(pattern, grid, tiles)
    assert not missed.any(), f"query {missed.nonzero()[0][0]} does not see key {missed.nonzero()[0][1]}"


@every_window
@every_case
def test_window_tiles_are_those_whose_boxes_meet(pattern, grid, tiles):
    mask, query_boxes, key_boxes, _ = tiles_of(pattern, grid, tiles)
    halves = half_widths(pattern, grid)
    expected = []
    for box in query_boxes:
        reach = [
            (window(low, half, size)[0], window(high, half, size)[1])
            for (low, high), half, size in zip(box, halves, grid.shape, strict=True)
        ]
        expected.append([meet(reach, key) for key in key_boxes])
    assert mask.dtype == torch.bool and mask.shape == (len(query_boxes), len(key_boxes))
    assert mask.tolist() == expected


def test_border_frames_see_as_much_as_others():
    """Frames of 16 tokens are one query tile each: every frame sees three, the first and last too."""
    pairs = video_part(Diagonal(frames=1), TokenGrid(6, 4, 4), (16, 16))
    frames = pairs[::16, ::16].int().tolist()
    assert frames == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
    ]


@pytest.mark.parametrize("width, share", [(0.0, 1 / 4), (0.25, 3 / 4), (0.3, 3 / 4), (0.5, 1)])
def test_multi_diagonal_sees_its_column_of_all_frames(width, share):
    """With 8 frames of 4 x 4 a tile of 32 in the deep order is one column of places through all frames."""
    assert pattern_density(MultiDiagonal(height=None, width=width), TokenGrid(8, 4, 4), 32, 32) == share


@pytest.mark.parametrize("frames, share", [(0, 1 / 5), (1, 3 / 5), (2, 1), (3, 1)])
def test_diagonal_sees_its_frames(frames, share):
    assert pattern_density(Diagonal(frames=frames), TokenGrid(5, 4, 4), 16, 8) == share


@pytest.mark.parametrize("tiles", TILES, ids=str)
@pytest.mark.parametrize(
    "family",
    [
        [Diagonal(frames=n) for n in (4, 2, 1, 0)],
        [Diagonal(frames=1, height=f, width=f) for f in (1, 0.3, 0.2, 0.1, 0)],
        [MultiDiagonal(height=f, width=f) for f in (1, 0.3, 0.2, 0.1, 0)],
        [MultiDiagonal(height=None, width=f) for f in (1, 0.4, 0.25, 0.1, 0)],
    ],
    ids=["frames", "part of frames", "place", "columns"],
)
def test_smaller_windows_are_parts_of_larger_ones(family, tiles):
    grid = TokenGrid(5, 9, 13) if tiles == (128, 64) else TokenGrid(5, 7, 11)
    pictures = [video_part(pattern, grid, tiles) for pattern in family]
    shares = [picture.double().mean().item() for picture in pictures]
    for larger, smaller in itertools.pairwise(pictures):
        assert not (smaller & ~larger).any()
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0] or tiles == (128, 64)  # such tiles are too coarse for some windows on this grid


# --- stripes -----------------------------------------------------------------------------------------------------


@every_stripe
@every_case
def test_every_query_sees_the_columns(pattern, grid, tiles):
    pairs = video_part(pattern, grid, tiles)
    area = grid.height * grid.width
    for box in pattern.columns:
        (t0, t1), (h0, h1), (w0, w1) = column_ranges(box, grid)
        for t in range(t0, t1 + 1):
            for h in range(h0, h1 + 1):
                for w in range(w0, w1 + 1):
                    assert pairs[:, t * area + h * grid.width + w].all(), (t, h, w)


@every_stripe
@every_case
def test_stripe_tiles_are_those_of_the_columns_and_the_own(pattern, grid, tiles):
    mask, query_boxes, key_boxes, _ = tiles_of(pattern, grid, tiles)
    columns = [column_ranges(box, grid) for box in pattern.columns]
    ratio = tiles[0] // tiles[1]
    for query in range(len(query_boxes)):
        for key, box in enumerate(key_boxes):
            expected = any(meet(column, box) for column in columns) or key // ratio == query
            assert mask[query, key].item() == expected, (query, key)


def test_first_frame_stripe_by_hand():
    """Frames of 16 tokens, tiles of 16: the first column of tiles and the own tile."""
    frames = video_part(VerticalStripe(), TokenGrid(4, 4, 4), (16, 16))[::16, ::16].int().tolist()
    assert frames == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]


# --- all kinds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [Dense(), *WINDOWS, *STRIPES], ids=repr)
@every_case
def test_own_tile_is_kept(pattern, grid, tiles):
    mask, query_boxes, _, _ = tiles_of(pattern, grid, tiles)
    ratio = tiles[0] // tiles[1]
    for query in range(len(query_boxes)):
        assert mask[query, query * ratio : (query + 1) * ratio].all()


@pytest.mark.parametrize("pattern", [Dense(), *WINDOWS, *STRIPES], ids=repr)
@every_case
def test_text_and_ragged_ends_are_dense(pattern, grid, tiles):
    picture = drawn(pattern, grid, tiles)
    assert picture.shape == (grid.tokens, grid.tokens) and picture.dtype == torch.uint8
    assert ((picture == 0) | (picture == 255)).all()
    index = tiles_of(pattern, grid, tiles)[3]
    text = [*range(grid.prefix), *range(grid.prefix + grid.video_tokens, grid.tokens)]
    rows = index[grid.video_tokens - grid.video_tokens % tiles[0] : grid.video_tokens]
    columns = index[grid.video_tokens - grid.video_tokens % tiles[1] : grid.video_tokens]
    assert (picture[text + rows] == 255).all()
    assert (picture[:, text + columns] == 255).all()


@every_case
def test_dense_and_skip_are_all_and_nothing(grid, tiles):
    assert (Dense().draw(grid, *tiles) == 255).all()
    tiling, picture = Skip().tiling(grid, *tiles), Skip().draw(grid, *tiles)
    full = tiling.query_tiles * tiles[0]
    assert (picture[tiling.index[:full]] == 0).all()
    assert (picture[tiling.index[full:]] == (255 if grid.prefix + grid.suffix else 0)).all()


def test_each_pattern_is_sparse_somewhere():
    """Guards the tests above: a mask of ones would pass half of them."""
    grids = [TokenGrid(5, 11, 6, 0, 3), TokenGrid(2, 33, 5, 5)]
    for pattern in [*WINDOWS, *STRIPES]:
        shares = [video_part(pattern, grid, (16, 8)).double().mean().item() for grid in grids]
        assert min(shares) < 0.9 or pattern == Diagonal(frames=10_000), pattern
