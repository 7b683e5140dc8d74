"""Token grid, token orders and tiles: what every pattern and kernel relies on, on odd grids."""

import itertools

import pytest
import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.order import ORDERS, balanced_parts, token_order
from sparse_vdit.kernels.tiling import Tiling

GRIDS = [(7, 9, 13), (5, 11, 6), (1, 7, 5), (3, 2, 2), (1, 1, 1), (17, 3, 1), (9, 1, 20)]
LARGE = (21, 45, 80)
TILES = [(16, 8), (32, 16), (128, 64), (64, 64)]
BRICK = {"spatial": (1, 8), "spatiotemporal": (8, 4)}  # (frames, rows) of a brick at most: what the two orders promise


def places(raster, shape):
    """(t, h, w) of raster numbers, worked out without the pack."""
    _, height, width = shape
    return [(n // (height * width), n % (height * width) // width, n % width) for n in raster]


@pytest.mark.parametrize(
    "shape, order, expected",
    [
        # one strip: columns of the frame, each from top to bottom
        ((1, 3, 2), "spatial", [0, 2, 4, 1, 3, 5]),
        # the second frame runs its columns backwards, so that it begins where the first ended
        ((2, 2, 2), "spatial", [0, 2, 1, 3, 5, 7, 4, 6]),
        # a column of all frames, then the next
        ((2, 2, 2), "spatiotemporal", [0, 2, 4, 6, 1, 3, 5, 7]),
        # 10 rows are two strips of 5, the second runs backwards
        ((1, 10, 2), "spatial", [0, 2, 4, 6, 8, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 10, 12, 14, 16, 18]),
        # 6 rows are two strips of 3 in the spatiotemporal order
        ((1, 6, 1), "spatiotemporal", [0, 1, 2, 3, 4, 5]),
        # 9 rows are strips of 5 and 4; the second frame runs its strips backwards
        ((2, 9, 1), "spatial", [0, 1, 2, 3, 4, 5, 6, 7, 8, 14, 15, 16, 17, 9, 10, 11, 12, 13]),
    ],
)
def test_token_order_by_hand(shape, order, expected):
    assert token_order(TokenGrid(*shape), order).tolist() == expected


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [*GRIDS, LARGE], ids=str)
def test_order_has_every_token_once(shape, order):
    tokens = shape[0] * shape[1] * shape[2]
    assert sorted(token_order(TokenGrid(*shape), order).tolist()) == list(range(tokens))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [*GRIDS, LARGE], ids=str)
def test_consecutive_tokens_are_near(shape, order):
    """From token to token: at most one column on, and never further than two bricks reach."""
    depth, height = BRICK[order]
    seen = places(token_order(TokenGrid(*shape), order).tolist(), shape)
    for (t0, h0, w0), (t1, h1, w1) in itertools.pairwise(seen):
        assert abs(w1 - w0) <= 1
        assert abs(h1 - h0) < 2 * height
        assert abs(t1 - t0) < 2 * depth


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", GRIDS, ids=str)
def test_most_steps_are_to_the_next_row(shape, order):
    """The others begin a new column, frame, strip or slab, at most one for each stretch of rows in a brick."""
    _, height = BRICK[order]
    frames, rows, columns = shape
    seen = places(token_order(TokenGrid(*shape), order).tolist(), shape)
    others = sum((t0, h0 + 1, w0) != later for (t0, h0, w0), later in itertools.pairwise(seen))
    assert others <= frames * columns * -(-rows // height) - 1


@pytest.mark.parametrize("shape", [(7, 9, 15), (5, 11, 12), (3, 16, 8), LARGE], ids=str)
def test_flat_tiles_span_at_most_two_frames(shape):
    assert shape[1] * shape[2] >= 128
    boxes = Tiling(TokenGrid(*shape), "spatial").query_boxes
    spans = (boxes[:, 0, 1] - boxes[:, 0, 0] + 1).tolist()
    assert spans and max(spans) <= 2


@pytest.mark.parametrize("order, most", [("spatial", (2, 16, 20)), ("spatiotemporal", (16, 8, 8))])
def test_tiles_of_a_720p_grid_are_compact(order, most):
    """A typical tile is about 1 x 8 x 16 or 8 x 4 x 4 tokens; where it crosses strips or slabs, two of them."""
    boxes = Tiling(TokenGrid(*LARGE), order).query_boxes
    spans = boxes[..., 1] - boxes[..., 0] + 1
    assert (spans <= torch.tensor(most)).all(), spans.amax(0)
    volumes = spans.prod(1).double()
    assert volumes.median() <= 1.25 * 128


@pytest.mark.parametrize("size, largest", [(1, 8), (8, 8), (9, 8), (45, 8), (45, 4), (21, 8), (30, 1), (13, 5)])
def test_balanced_parts(size, largest):
    parts = balanced_parts(size, largest).tolist()
    sizes = [parts.count(number) for number in range(max(parts) + 1)]
    assert parts == sorted(parts) and len(parts) == size
    assert max(sizes) <= largest and max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-size // largest)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tiles", TILES, ids=str)
@pytest.mark.parametrize("shape", GRIDS, ids=str)
@pytest.mark.parametrize("prefix, suffix", [(0, 0), (5, 3), (0, 3), (5, 0)])
def test_tiles_are_full_and_the_rest_is_dense(shape, prefix, suffix, tiles, order):
    grid, (query, key) = TokenGrid(*shape, prefix, suffix), tiles
    tiling = Tiling(grid, order, query, key)
    video, tokens = shape[0] * shape[1] * shape[2], shape[0] * shape[1] * shape[2] + prefix + suffix
    assert (tiling.query_tiles, tiling.key_tiles) == (video // query, video // key)
    assert tiling.dense_rows == video % query + prefix + suffix
    assert tiling.dense_keys == video % key + prefix + suffix
    assert tiling.query_tiles * query + tiling.dense_rows == tiling.key_tiles * key + tiling.dense_keys == tokens
    index = tiling.index.tolist()
    assert sorted(index) == list(range(tokens))
    assert sorted(index[:video]) == list(range(prefix, prefix + video))  # video first, then text in its own order
    assert index[video:] == [*range(prefix), *range(prefix + video, tokens)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape, tiles", [((7, 9, 13), (16, 8)), ((5, 11, 6), (32, 16)), ((7, 9, 13), (128, 64))])
def test_boxes_are_the_smallest_around_a_tile(shape, tiles, order):
    tiling = Tiling(TokenGrid(*shape, 5, 3), order, *tiles)
    for boxes, tile in ((tiling.query_boxes, tiles[0]), (tiling.key_boxes, tiles[1])):
        video = [number - 5 for number in tiling.index.tolist()]
        for number, box in enumerate(boxes.tolist()):
            inside = places(video[number * tile : (number + 1) * tile], shape)
            assert box == [[min(axis), max(axis)] for axis in zip(*inside, strict=True)]
        assert len(boxes) == shape[0] * shape[1] * shape[2] // tile


def test_a_grid_smaller_than_a_tile_is_all_dense():
    tiling = Tiling(TokenGrid(1, 7, 5, 2), "spatial")
    assert tiling.query_tiles == tiling.key_tiles == 0
    assert tiling.dense_rows == tiling.dense_keys == 37
    assert tiling.query_boxes.shape == tiling.key_boxes.shape == (0, 3, 2)


def test_grid_counts():
    grid = TokenGrid(7, 9, 13, prefix=5, suffix=3)
    assert (grid.shape, grid.video_tokens, grid.text_tokens, grid.tokens) == ((7, 9, 13), 819, 8, 827)
    assert str(grid) == "7x9x13 + 5 before + 3 after" and str(TokenGrid(1, 2, 3)) == "1x2x3"
    assert hash(grid) == hash(grid._replace()) and grid == (7, 9, 13, 5, 3)


@pytest.mark.parametrize(
    "values, name, shown",
    [
        ((0, 9, 13), "frames", "0"),
        ((7, -1, 13), "height", "-1"),
        ((7, 9, 1.0), "width", "1.0"),
        ((True, 9, 13), "frames", "True"),
        ((7, 9, None), "width", "None"),
        ((7, 9, 13, -1, 0), "prefix", "-1"),
        ((7, 9, 13, 0, "3"), "suffix", "'3'"),
    ],
)
def test_grid_refuses(values, name, shown):
    with pytest.raises(ValueError, match=f"token grid: {name} is {shown}, expected a whole number"):
        TokenGrid(*values).check()


def test_a_tiling_checks_its_grid():
    with pytest.raises(ValueError, match="token grid: height is 0"):
        Tiling(TokenGrid(7, 0, 13), "spatial", 64, 32)


@pytest.mark.parametrize("query, key", [(0, 0), (64, 0), (64, -64), (-64, 64), (64, 128), (96, 64)])
def test_tiling_refuses_tiles_that_do_not_fit(query, key):
    with pytest.raises(ValueError, match=f"tiles of {query} queries and {key} keys"):
        Tiling(TokenGrid(3, 2, 2), "spatial", query, key)


@pytest.mark.parametrize("order", ["", "Flat", None, 1])
def test_unknown_order_is_refused(order):
    with pytest.raises(ValueError, match="expected one of spatial, spatiotemporal"):
        token_order(TokenGrid(3, 2, 2), order)
