"""Stripes whose columns come from the profile: which places they are, what they cost, and how plans have them."""

import dataclasses
import math

import pytest
import torch
from made_up_profiles import made_up, random_errors
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import pattern_density
from sparse_vdit.kernels.oracle import pattern_attention
from sparse_vdit.kernels.patterns import Dense, Diagonal, Skip, VerticalStripe, pattern_from_dict
from sparse_vdit.kernels.tiling import Tiling
from sparse_vdit.plans.profile.candidates import default_candidates
from sparse_vdit.plans.profile.columns import Cells, ProfiledStripe, candidate_from_dict, cell_grid
from sparse_vdit.plans.profile.errors import CandidateEvaluator
from sparse_vdit.plans.profile.profile import merge_profiles
from sparse_vdit.plans.profile.profiler import Profiler
from sparse_vdit.plans.search import search
from sparse_vdit.plans.search.chosen import pattern_of

GRID = TokenGrid(5, 9, 11, prefix=3, suffix=2)
TILES = (32, 16)
HEADS, HEAD_DIM = 3, 24
PLACES = ((1, 4, 5), (4, 8, 0))  # (t, h, w) of the keys that all queries of the planted heads look at


def planted(seed=1, batch=1):
    """q, k, v whose heads look at PLACES wherever they are; the last head looks nowhere."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, GRID.tokens, HEADS, HEAD_DIM, generator=generator) for _ in range(3))
    q[:, :, :2, 0] = 8
    for t, h, w in PLACES:
        k[:, GRID.prefix + (t * 9 + h) * 11 + w, :2, 0] = 8
    return q, k, v


OFFERED = (Skip(), Diagonal(1), ProfiledStripe(0.3))


def profiled(candidates=OFFERED, calls=1):
    profiler = Profiler("wan", "toy", 1, HEADS, HEAD_DIM, candidates, [(1.0, 0.0)], 10_000, *TILES)
    for seed in range(calls):
        profiler.observe(0, 0.5, *planted(seed), GRID, None)
    return profiler.profile()


@pytest.mark.parametrize("shape", [(5, 9, 11), (21, 3, 17), (1, 8, 13), (3, 6, 7), (21, 30, 52)])
def test_every_token_lies_in_its_cell_and_every_cell_in_its_tiles(shape):
    grid = TokenGrid(*shape, prefix=7)
    cells = Cells(Tiling(grid, "spatial", *TILES))
    assert len(cells.boxes) == math.prod(cell_grid(shape)) == int(cells.of_key.max()) + 1
    places = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"), -1).view(-1, 3)
    for token, (place, cell) in enumerate(zip(places.tolist(), cells.of_key.tolist(), strict=True)):
        box = cells.boxes[cell]
        for axis in range(3):
            low, high = (int(bound * shape[axis]) for bound in box[2 * axis : 2 * axis + 2])
            assert low <= place[axis] <= high, (token, place, box)
    volumes = []
    for box in cells.boxes:
        ends = [int(bound * shape[n // 2]) for n, bound in enumerate(box)]
        volumes.append(math.prod(high - low + 1 for low, high in zip(ends[::2], ends[1::2], strict=True)))
    assert volumes == cells.of_key.bincount().tolist()  # and nothing else
    tile_of = torch.full((grid.tokens,), -1)
    tiled = cells.tiling.key_tiles * TILES[1]
    tile_of[cells.tiling.index[:tiled]] = torch.arange(tiled) // TILES[1]
    for token, cell in enumerate(cells.of_key.tolist()):
        tile = tile_of[grid.prefix + token]
        assert tile < 0 or cells.meets[cell, tile]


def test_the_mass_is_of_the_video_alone():
    cells = Cells(Tiling(GRID, "spatial", *TILES))
    weights = torch.rand(13, GRID.tokens, generator=torch.Generator().manual_seed(2))
    assert cells.mass(weights).sum().item() == pytest.approx(weights[:, 3:-2].sum().item(), rel=1e-5)


def test_the_profile_finds_the_columns_and_judges_the_stripe_that_the_plan_has():
    """All rows are sampled, so that the error must be that of the very stripe, computed directly."""
    profile = profiled()
    stripe = pattern_of(profile, (0, 0, 0), 3)
    assert isinstance(stripe, VerticalStripe)
    cells = Cells(Tiling(GRID, "spatial", *TILES))
    wanted = {int(cells.of_key[(t * 9 + h) * 11 + w]) for t, h, w in PLACES}
    assert wanted == set(profile.columns[0, 0, 0].topk(2).indices.tolist())
    assert {cells.boxes[cell] for cell in wanted} <= set(stripe.columns)

    q, k, v = planted(0)
    rows = cells.tiling.index[: cells.tiling.query_tiles * TILES[0]]
    exact, sparse = (pattern_attention(q, k, v, [p] * HEADS, GRID, *TILES)[:, rows] for p in (Dense(), stripe))
    direct = (sparse - exact)[:, :, 0].square().sum(-1).mean().item()
    assert profile.measures["projected"][0, 0, 0, 3].item() == pytest.approx(direct, rel=1e-3)
    errors = profile.measures["relative"][0, 0, :, 3]
    assert errors[:2].max() < 0.1 < errors[2]


@pytest.mark.parametrize("share", [0.001, 0.05, 0.1, 0.3])
def test_a_stripe_is_at_most_as_dense_as_is_counted(share):
    profile = profiled((Diagonal(1), ProfiledStripe(share)))
    for head in range(HEADS):
        stripe = pattern_of(profile, (0, 0, head), 2)
        found = pattern_density(stripe, TokenGrid(*profile.header.grid), *TILES)
        assert found <= Cells(Tiling(TokenGrid(5, 9, 11), "spatial", *TILES)).density(share) + 1e-6
    assert profile.header.densities[2] == pytest.approx(Cells(Tiling(GRID, "spatial", *TILES)).density(share))


@pytest.mark.parametrize("grid", [GRID, TokenGrid(7, 9, 13)], ids=str)
def test_densities_of_judged_candidates_are_those_of_their_tile_lists(grid):
    candidates = default_candidates()
    evaluator = CandidateEvaluator(grid, candidates, 50, *TILES)
    for pattern, density in zip(candidates, evaluator.densities(), strict=True):
        if not isinstance(pattern, ProfiledStripe):
            assert density == pytest.approx(pattern_density(pattern, grid, *TILES)), pattern


def test_a_share_below_one_cell_keeps_one():
    profile = profiled((Diagonal(1), ProfiledStripe(0.001)))
    assert len(pattern_of(profile, (0, 0, 0), 2).columns) == 1


def test_a_search_gives_each_head_columns_of_its_own():
    plan = search.search_budget(profiled(), density=0.5)
    kinds = [plan.pattern(0, 0, head).kind for head in range(HEADS)]
    assert kinds[:2] == ["vertical_stripe", "vertical_stripe"]


def test_columns_are_means_over_what_was_observed():
    one, two, three = profiled(), profiled(calls=2), profiled(calls=3)
    merged = merge_profiles(one, two)
    share = one.columns / 3 + two.columns * 2 / 3
    torch.testing.assert_close(merged.columns, share)
    assert three.columns.sum(-1).flatten().tolist() == pytest.approx([1] * HEADS, rel=1e-5)


def test_few_heads_have_columns_of_their_own(monkeypatch):
    """Those whose error falls most by it."""
    monkeypatch.setattr(search, "MAX_STRIPES", 5)
    generator = torch.Generator().manual_seed(5)
    errors = torch.rand(2, 3, 4, 4, generator=generator)
    striped = torch.tensor([False, False, False, True])
    allowed = search._stripable(errors, torch.tensor([1.0, 0.3, 0.05, 0.2]), striped)[..., 0]
    gains = (errors[..., 2] - errors[..., 3]).flatten()
    assert allowed.flatten().nonzero().flatten().tolist() == sorted(gains.topk(5).indices.tolist())


def test_a_candidate_survives_its_json_form_and_no_plan_takes_it():
    stripe = ProfiledStripe(0.07)
    assert candidate_from_dict(stripe.to_dict()) == stripe
    assert candidate_from_dict(Diagonal(2).to_dict()) == Diagonal(2)
    with pytest.raises(ValueError, match="profiled_stripe"):
        pattern_from_dict(stripe.to_dict())
    for broken in ({"share": 0}, {"share": "all"}, {"more": 1}, {"order": "up"}):
        with pytest.raises(ValueError, match=r"share|more|order"):
            candidate_from_dict({**stripe.to_dict(), **broken})


def test_profiles_with_odd_columns_are_refused():
    profile = made_up(random_errors(1))
    for columns in (profile.columns[..., :-1], profile.columns - 1, profile.columns / 0):
        with pytest.raises(ValueError, match=r"columns (is|has)"):
            dataclasses.replace(profile, columns=columns)
