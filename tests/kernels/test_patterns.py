"""Every pattern against its definition, token by token on odd grids."""

import itertools
import json

import pytest
import torch
from pattern_truth import (
    STRIPES,
    TILES,
    UNIONS,
    WINDOWS,
    column_ranges,
    drawn,
    every_case,
    every_stripe,
    every_window,
    meet,
    seen_axes,
    seen_pairs,
    tiles_of,
    video_part,
)
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import pattern_density
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Skip, VerticalStripe, pattern_from_dict

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
    axes, ratio = seen_axes(pattern, grid), tiles[0] // tiles[1]

    def meets(query, key):
        parts = zip(axes, query_boxes[query], key_boxes[key], strict=True)
        return all(axis[q0 : q1 + 1, k0 : k1 + 1].any() for axis, (q0, q1), (k0, k1) in parts)

    expected = [[k // ratio == q or meets(q, k) for k in range(len(key_boxes))] for q in range(len(query_boxes))]
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
    """With 8 frames of 4 x 4 a tile of 32 in the spatiotemporal order is one column of places through all frames."""
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


def test_a_shifted_frame_is_the_one_before():
    """Frames of 16 tokens are one query tile each; the first has none before it and sees the first instead."""
    frames = video_part(Diagonal(shift=-1), TokenGrid(5, 4, 4), (16, 16))[::16, ::16].int().tolist()
    assert frames == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]


def test_every_second_frame():
    pairs = video_part(MultiDiagonal(height=1.0, width=1.0, every=2, order="spatial"), TokenGrid(5, 4, 4), (16, 16))
    assert pairs[::16, ::16].int().tolist() == [[1, 0, 1, 0, 1], [0, 1, 0, 1, 0]] * 2 + [[1, 0, 1, 0, 1]]


# --- unions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", UNIONS, ids=repr)
@every_case
def test_a_union_attends_what_any_part_attends(pattern, grid, tiles):
    expected = torch.stack([tiles_of(part, grid, tiles)[0] for part in pattern.parts]).any(0)
    assert torch.equal(tiles_of(pattern, grid, tiles)[0], expected)


@pytest.mark.parametrize("pattern", [*WINDOWS, *STRIPES, *UNIONS], ids=repr)
def test_json_and_back(pattern):
    data = json.loads(json.dumps(pattern.to_dict()))
    assert pattern_from_dict(data) == pattern


def a_union(*parts):
    """JSON of a union in the spatial order."""
    return {"kind": "union", "order": "spatial", "parts": list(parts)}


BAND, PLACE = Diagonal().to_dict(), MultiDiagonal().to_dict()


@pytest.mark.parametrize(
    "data, message",
    [
        (a_union(), "2 to 4 patterns"),
        (a_union(*[BAND] * 5), "2 to 4 patterns"),
        (a_union(BAND, Dense().to_dict()), r"parts\[1\].*Dense"),
        (a_union(BAND, {"kind": "union"}), "union itself"),
        (a_union(BAND, PLACE), "order 'spatiotemporal'"),
        ({**PLACE, "every": 0}, "every is 0, expected a whole number from 1"),
        ({**PLACE, "height": None, "height_period": 0.5}, "height_period is 0.5.*nothing is limited"),
        ({**BAND, "shift": 1.5}, "shift is 1.5"),
    ],
    ids=str,
)
def test_bad_windows_and_unions_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        pattern_from_dict(data)


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


@pytest.mark.parametrize("pattern", [Dense(), *WINDOWS, *STRIPES, *UNIONS], ids=repr)
@every_case
def test_own_tile_is_kept(pattern, grid, tiles):
    mask, query_boxes, _, _ = tiles_of(pattern, grid, tiles)
    ratio = tiles[0] // tiles[1]
    for query in range(len(query_boxes)):
        assert mask[query, query * ratio : (query + 1) * ratio].all()


@pytest.mark.parametrize("pattern", [Dense(), *WINDOWS, *STRIPES, *UNIONS], ids=repr)
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
    for pattern in [*WINDOWS, *STRIPES, *UNIONS]:
        shares = [video_part(pattern, grid, (16, 8)).double().mean().item() for grid in grids]
        assert min(shares) < 0.9 or pattern == Diagonal(frames=10_000), pattern
