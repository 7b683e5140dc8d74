"""Small pictures of what heads attend: what is kept of them in a profile, and how they are drawn."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up_profiles import made_up, random_errors
from sample_plans import small_plan
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.order import SPATIOTEMPORAL
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Routed, Skip
from sparse_vdit.plans.profile.errors import CandidateEvaluator
from sparse_vdit.plans.profile.head_maps import as_shares, part_count, part_grid, part_mass, part_of_token, pattern_map
from sparse_vdit.plans.profile.profile import merge_profiles
from sparse_vdit.plans.profile.profile_files import load_profile, save_profile
from sparse_vdit.plans.profile.profiler import Profiler
from sparse_vdit.plans.view.head_drawing import draw_head, fitting_maps

GRID = (7, 9, 5)  # more frames and rows than parts, and no multiple of them
TEXT = TokenGrid(*GRID, 4, 3)


def test_parts_are_frames_and_rows_in_order_and_about_equal() -> None:
    parts = part_of_token(GRID).reshape(GRID)
    assert part_grid(GRID) == (6, 6)
    assert part_count(GRID) == 36 == int(parts.max()) + 1
    assert (parts == parts[:, :, :1]).all()  # columns are not told apart
    assert (parts[:, 1:] >= parts[:, :-1]).all()
    assert (parts[1:] >= parts[:-1]).all()
    assert parts[0, 0, 0] == 0
    assert set(parts.flatten().bincount().tolist()) <= {5, 10, 20}
    assert part_count((1, 2, 30)) == 2


def test_mass_is_summed_by_the_parts_of_query_and_key_without_text() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(11, TEXT.tokens, generator=generator).softmax(-1)
    queries = TEXT.prefix + torch.randperm(TEXT.video_tokens, generator=generator)[:11]
    parts = part_of_token(GRID)
    found = part_mass(weights, queries, parts, 36, TEXT.prefix)
    wanted = torch.zeros(36, 36)
    for row, query in enumerate(queries.tolist()):
        for key in range(TEXT.video_tokens):
            wanted[parts[query - TEXT.prefix], parts[key]] += weights[row, TEXT.prefix + key]
    assert torch.allclose(found, wanted, atol=1e-6)


def test_shares_of_a_part_sum_to_one_and_unseen_parts_to_zero() -> None:
    maps = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    maps[0, 1, 2] = 0
    sums = as_shares(maps).sum(-1)
    assert sums[0, 1, 2] == 0
    sums[0, 1, 2] = 1
    assert torch.allclose(sums, torch.ones(2, 3, 4))


COUNTED = [Dense(), Skip(), Diagonal(1), MultiDiagonal(0.1, None), Diagonal(0, order=SPATIOTEMPORAL)]


@pytest.mark.parametrize("pattern", COUNTED)
def test_patterns_are_counted_as_their_pictures_show_them(pattern: object) -> None:
    tiles = 16, 8
    tiling = pattern.tiling(TokenGrid(*GRID), *tiles)
    tiled = tiling.index[: tiling.query_tiles * 16], tiling.index[: tiling.key_tiles * 8]
    attended = pattern.tile_mask(tiling).repeat_interleave(16, 0).repeat_interleave(8, 1)
    parts = part_of_token(GRID)
    total, inside = torch.zeros(36, 36), torch.zeros(36, 36)
    for row, query in enumerate(parts[tiled[0]].tolist()):
        total[query] += torch.bincount(parts[tiled[1]], minlength=36)
        inside[query] += torch.bincount(parts[tiled[1]], weights=attended[row].float(), minlength=36)
    assert torch.allclose(pattern_map(pattern, GRID, *tiles), inside / total.clamp_min(1), atol=1e-6)


def judged_maps(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    evaluator = CandidateEvaluator(TEXT, (Dense(), Diagonal(0)), 512, 16, 8)  # of every part some rows
    maps = torch.zeros(2, 36, 36, dtype=torch.float64)
    evaluator.errors(q, k, v, None, torch.Generator().manual_seed(0), None, maps)
    return as_shares(maps)


def test_a_head_that_looks_at_its_own_frame_shows_as_a_diagonal() -> None:
    frame = torch.arange(TEXT.video_tokens) // (GRID[1] * GRID[2])
    q = torch.zeros(1, TEXT.tokens, 2, 8)
    q[0, TEXT.prefix : TEXT.prefix + TEXT.video_tokens, 0] = torch.nn.functional.one_hot(frame, 8).float() * 30
    own, even = judged_maps(q, q.clone(), torch.rand(1, TEXT.tokens, 2, 8))
    slabs = own.reshape(6, 6, 6, 6).sum((1, 3)) / 6  # mass between parts of the frames
    assert slabs.diagonal().min() > 0.95
    assert even.reshape(6, 6, 6, 6).sum((1, 3)).max() < 0.4 * 6


def profiler(maps: bool) -> Profiler:
    found = Profiler("wan", "m", 2, 2, 8, [Diagonal(0)], [(1.0, 0.5), (0.5, 0.0)], 32, 16, 8, maps=maps)
    for number, sigma in enumerate((0.9, 0.4)):
        qkv = torch.rand(3, 1, TEXT.tokens, 2, 8, generator=torch.Generator().manual_seed(number))
        for layer in range(2):
            found.observe(layer, sigma, *qkv, TEXT, None)
    return found


def test_a_profiler_keeps_maps_only_where_asked_and_measures_the_same() -> None:
    with_maps, without = profiler(True).profile(), profiler(False).profile()
    assert without.maps is None
    assert with_maps.maps.shape == (2, 2, 36, 36)
    assert torch.allclose(with_maps.maps.sum(-1).max(), torch.tensor(1.0))
    assert all(torch.equal(with_maps.measures[name], without.measures[name]) for name in without.measures)


def test_files_keep_maps_and_files_without_them_are_read(tmp_path) -> None:
    for maps in (True, False):
        profile = profiler(maps).profile()
        read = load_profile(save_profile(profile, tmp_path / f"{maps}.safetensors"))
        if maps:
            assert torch.allclose(read.maps, profile.maps, atol=1e-3)
        else:
            assert read.maps is None


def test_merged_maps_count_by_observations() -> None:
    ones = torch.full((3, 4, 30, 30), 1 / 30)
    first, second = made_up(random_errors(1)), made_up(random_errors(2))
    first = dataclasses.replace(first, maps=ones, samples=first.samples * 3)
    assert merge_profiles(first, second).maps is first.maps
    assert merge_profiles(second, first).maps is first.maps
    other = dataclasses.replace(second, maps=ones * 2)
    assert torch.allclose(merge_profiles(first, other).maps, ones * 1.25)


@pytest.mark.parametrize("spoil", [lambda maps: maps[:2], lambda maps: -maps, lambda maps: maps / 0])
def test_maps_that_are_none_are_refused(spoil) -> None:
    with pytest.raises(ValueError, match=r"maps (is|has)"):
        dataclasses.replace(made_up(random_errors(1)), maps=spoil(torch.full((3, 4, 30, 30), 1 / 30)))


def test_the_picture_has_both_and_says_what_is_missing() -> None:
    plan = dataclasses.replace(small_plan(), grid=GRID)
    profile = dataclasses.replace(
        profiler(True).profile(), header=dataclasses.replace(profiler(True).profile().header, head_dim=8)
    )
    plan = dataclasses.replace(plan, layers=2, heads=2, bands=tuple(
        dataclasses.replace(band, heads=((2, 1), (3, 0))) for band in plan.bands
    ))  # fmt: skip
    maps = fitting_maps(plan, profile)
    alone, beside = draw_head(plan, None, 0, 0, 0), draw_head(plan, maps, 0, 0, 0)
    assert alone.dtype == np.uint8
    assert beside.shape[1] > 1.5 * alone.shape[1]  # no empty box where nothing was measured
    assert (beside[:, : beside.shape[1] // 2] < 128).mean() > 0.05
    routed = dataclasses.replace(plan, patterns=(Routed(), *plan.patterns[1:]))
    assert draw_head(routed, None, 0, 1, 1).shape[0] < 0.5 * draw_head(routed, maps, 0, 1, 1).shape[0]
    assert fitting_maps(plan, None) is None
    for other in ({"grid": (9, 7, 5)}, {"layers": 3}, {"heads": 3}, {"family": "ltx"}):
        header = dataclasses.replace(profile.header, **other)
        assert fitting_maps(plan, SimpleNamespace(header=header, maps=maps)) is None


@pytest.mark.parametrize("place, name", [((2, 0, 0), "band"), ((0, 4, 0), "layer"), ((0, 0, 3), "head")])
def test_a_head_that_is_not_there_is_named(place: tuple, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        draw_head(small_plan(), None, *place)
