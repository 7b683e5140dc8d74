"""Tile lists: what kernels read must be what the patterns say, stored once and small."""

import dataclasses

import pytest
import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import PREFETCH, TileListBuilder, pattern_density
from sparse_vdit.kernels.order import ORDERS
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Skip, VerticalStripe

CASES = [
    (TokenGrid(7, 9, 13, 5, 3), (128, 64)),
    (TokenGrid(5, 7, 11, 5, 3), (16, 8)),
    (TokenGrid(5, 11, 6, 0, 3), (32, 16)),
    (TokenGrid(1, 7, 5), (16, 8)),
    (TokenGrid(1, 7, 5), (128, 64)),  # no full tiles
    (TokenGrid(3, 2, 2, 5), (4, 4)),
]
PATTERNS = [
    Dense(),
    Skip(),
    Diagonal(),
    Diagonal(frames=1, height=0.25, width=0.25),
    MultiDiagonal(height=0.1, width=0.1),
    MultiDiagonal(height=None, width=0.1, order="spatial"),
    VerticalStripe(),
    VerticalStripe(((0, 0, 0, 0.2, 0, 0.2), (0.9, 1, 0, 1, 0, 1)), order="spatiotemporal"),
]
every_case = pytest.mark.parametrize("grid, tiles", CASES, ids=[f"{g}-{t}".replace(" ", "") for g, t in CASES])


def built(patterns, grid, tiles):
    """(lists, number of each pattern's list)."""
    builder = TileListBuilder(grid, *tiles)
    numbers = [builder.add(pattern) for pattern in patterns]
    return builder.build(), numbers


def attended(lists, number):
    """Pairs that a kernel computes for a list, from its tables alone: bool (tokens, tokens) in sequence order."""
    tokens, query, key = lists.grid.tokens, lists.query_tile, lists.key_tile
    video = tokens - lists.grid.prefix - lists.grid.suffix
    index = lists.index[int(lists.orders[number])].tolist()
    pairs = torch.zeros(tokens, tokens, dtype=torch.bool)
    segment = index[video - video % key :]  # every row that is not skipped attends what is outside full key tiles
    for row in range(video // query + 1):
        start, count = int(lists.starts[number, row]), int(lists.kv_num_blocks[number, row])
        if count < 0:
            continue
        last = row == video // query
        queries = index[row * query :] if last else index[row * query : (row + 1) * query]
        keys = list(segment)
        for column in lists.kv_indices[start : start + count].tolist():
            keys += index[column * key : (column + 1) * key]
        assert len(keys) == len(set(keys)), "a key is attended twice"
        pairs[torch.tensor(queries, dtype=torch.long)[:, None], torch.tensor(keys, dtype=torch.long)] = True
    return pairs


@every_case
def test_lists_are_what_the_patterns_draw(grid, tiles):
    lists, numbers = built(PATTERNS, grid, tiles)
    for pattern, number in zip(PATTERNS, numbers, strict=True):
        assert torch.equal(attended(lists, number), pattern.draw(grid, *tiles) == 255), pattern


@every_case
def test_densities_are_the_share_of_computed_pairs(grid, tiles):
    lists, numbers = built(PATTERNS, grid, tiles)
    for pattern, number in zip(PATTERNS, numbers, strict=True):
        drawn = int((pattern.draw(grid, *tiles) == 255).sum())
        assert lists.densities[number] == pytest.approx(drawn / grid.tokens**2, rel=1e-12)
        assert pattern_density(pattern, grid, *tiles) == lists.densities[number]
    assert lists.densities[0] == 1 and (lists.densities[1] == 0) == (grid.prefix + grid.suffix == 0)


@every_case
def test_tables_are_in_bounds_and_of_the_right_form(grid, tiles):
    lists, numbers = built(PATTERNS, grid, tiles)
    video = grid.frames * grid.height * grid.width
    rows = video // tiles[0] + 1
    assert lists.starts.shape == lists.kv_num_blocks.shape == (len(PATTERNS), rows)
    assert lists.index.shape == (2, grid.tokens) and lists.orders.tolist() == [
        ORDERS.index(pattern.order) for pattern in PATTERNS
    ]
    assert {lists.starts.dtype, lists.kv_num_blocks.dtype, lists.orders.dtype, lists.index.dtype} == {torch.int32}
    assert lists.kv_indices.dtype == torch.int16
    assert (lists.starts + lists.kv_num_blocks.clamp(min=0) + PREFETCH <= len(lists.kv_indices)).all()
    first = lists.segment_tiles
    assert lists.kv_indices[:first].tolist() == list(range(video // tiles[1], grid.tokens // tiles[1]))
    listed = lists.kv_indices[first:]
    assert int(listed.min()) >= 0 and int(listed.max()) <= max(0, video // tiles[1] - 1)
    assert (lists.starts[lists.kv_num_blocks > 0] >= first).all()
    assert numbers == list(range(len(PATTERNS)))


@every_case
def test_rows_are_sorted_by_key_tile(grid, tiles):
    lists, _ = built(PATTERNS, grid, tiles)
    for starts, kv_num_blocks in zip(lists.starts.tolist(), lists.kv_num_blocks.tolist(), strict=True):
        for start, count in zip(starts, kv_num_blocks, strict=True):
            row = lists.kv_indices[start : start + max(count, 0)].tolist()
            assert row == sorted(set(row))


@every_case
def test_skip_is_marked_on_every_row_but_that_of_text(grid, tiles):
    lists, (number,) = built([Skip()], grid, tiles)
    assert (lists.kv_num_blocks[number, :-1] == -1).all()
    text = grid.prefix + grid.suffix > 0
    assert lists.kv_num_blocks[number, -1] == (grid.frames * grid.height * grid.width // tiles[1] if text else -1)
    if not text:
        assert len(lists.kv_indices) == PREFETCH and lists.densities[number] == 0


def test_tables_that_do_not_begin_with_the_segments_tiles_are_refused():
    lists, _ = built([Dense()], TokenGrid(5, 7, 11, prefix=141), (128, 64))
    assert lists.segment_tiles == 2 and lists.kv_indices[:3].tolist() == [6, 7, 0]
    for place, message in ((0, "must begin with the 2 full tiles"), (None, "begins among the first 2 entries")):
        kv_indices, starts = lists.kv_indices.clone(), lists.starts.clone()
        if place is None:
            starts -= 1
        else:
            kv_indices[place] = 0
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(lists, kv_indices=kv_indices, starts=starts)


def test_dense_costs_one_row():
    grid = TokenGrid(7, 9, 13, 5, 3)
    for patterns in ([Dense()], [Dense(), Dense(order="spatiotemporal")], [Dense(), Diagonal(frames=10_000)]):
        lists, _ = built(patterns, grid, (16, 8))
        assert len(lists.kv_indices) == lists.segment_tiles + 819 // 8 + PREFETCH


def test_equal_patterns_have_one_number():
    grid = TokenGrid(5, 11, 6, 0, 3)
    lists, numbers = built([Diagonal(frames=1), Dense(), Diagonal(frames=1), Dense(order="spatial")], grid, (16, 8))
    assert numbers == [0, 1, 0, 1]
    assert len(lists.densities) == lists.starts.shape[0] == lists.orders.shape[0] == 2


def test_equal_rows_of_different_patterns_are_shared():
    """Tiles of a frame each: the diagonal's rows are single frames, every row of the stripe is the dense row."""
    grid = TokenGrid(5, 4, 4)
    alone, _ = built([Diagonal()], grid, (16, 16))
    both, _ = built([Diagonal(), VerticalStripe(((0, 1, 0, 0, 0, 0),))], grid, (16, 16))
    assert len(alone.kv_indices) - PREFETCH == 5 * 1 + 5  # a frame for each row, and all five for the dense rows
    assert len(both.kv_indices) == len(alone.kv_indices)


def test_adding_after_building_keeps_numbers():
    grid = TokenGrid(5, 11, 6, 0, 3)
    builder = TileListBuilder(grid, 16, 8)
    first = builder.add(Diagonal())
    before = attended(builder.build(), first)
    assert builder.add(MultiDiagonal()) == 1 and builder.add(Diagonal()) == first
    assert torch.equal(attended(builder.build(), first), before)


def test_no_patterns_build_empty_tables():
    lists = TileListBuilder(TokenGrid(5, 11, 6), 16, 8).build()
    assert lists.starts.shape == lists.kv_num_blocks.shape == (0, 330 // 16 + 1)
    assert lists.densities == () and len(lists.kv_indices) == PREFETCH


def test_a_grid_without_full_tiles_has_only_dense_rows():
    lists, numbers = built(PATTERNS, TokenGrid(1, 7, 5, 2), (128, 64))
    assert lists.kv_num_blocks.tolist() == [[0]] * 8
    assert [lists.densities[number] for number in numbers] == [1] * 8
    without_text, _ = built(PATTERNS, TokenGrid(1, 7, 5), (128, 64))
    assert without_text.kv_num_blocks.tolist() == [[0], [-1], *[[0]] * 6]
    assert without_text.densities == (1, 0, *[1] * 6)


@pytest.mark.parametrize("tokens, dtype", [(32_767, torch.int16), (32_768, torch.int32)])
def test_columns_are_wide_enough_for_the_last_key_tile(tokens, dtype):
    lists, _ = built([Dense()], TokenGrid(1, 1, tokens), (16_384, 1))
    assert lists.kv_indices.dtype == dtype
    assert int(lists.kv_indices.long().max()) == tokens - 1


def test_all_lists_of_a_720p_run_are_small():
    windows = (0.05, 0.1, 0.15, 0.2, 0.25)
    patterns = [Dense(), Skip(), VerticalStripe(), VerticalStripe(((0, 1, 0.4, 0.6, 0.4, 0.6),))]
    patterns += [Diagonal(frames=n) for n in range(5)]
    patterns += [Diagonal(frames=n, height=f, width=f) for n in (0, 2) for f in windows]
    patterns += [MultiDiagonal(height=f, width=f) for f in windows]
    lists, _ = built(patterns, TokenGrid(21, 45, 80, 0, 512), (128, 64))
    tables = (lists.kv_indices, lists.starts, lists.kv_num_blocks, lists.orders, lists.index)
    assert lists.bytes == sum(table.nbytes for table in tables)
    assert lists.bytes < 8 * 2**20
    one_by_one = sum(int(kv_num_blocks.clamp(min=0).sum()) for kv_num_blocks in lists.kv_num_blocks)
    assert len(lists.kv_indices) < one_by_one / 2  # interning more than halves it


def test_moved_lists_are_equal():
    lists, _ = built(PATTERNS, TokenGrid(5, 11, 6, 0, 3), (16, 8))
    moved = lists.to("cpu")
    assert moved.grid == lists.grid and moved.densities == lists.densities
    assert (moved.query_tile, moved.key_tile) == (16, 8)
    for name in ("kv_indices", "starts", "kv_num_blocks", "orders", "index"):
        assert torch.equal(getattr(moved, name), getattr(lists, name)), name
