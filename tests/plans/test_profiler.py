"""The one-pass errors against direct computation of every candidate, and what flows on while profiling."""

import sys

import pytest
import torch
from sparse_vdit.kernels.attention import sparse_attention
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder, pattern_density
from sparse_vdit.kernels.oracle import masked_attention, pattern_attention, sequence_mask
from sparse_vdit.kernels.order import SPATIOTEMPORAL
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Routed, Skip, Union, VerticalStripe
from sparse_vdit.kernels.tiling import Tiling
from sparse_vdit.plans.profile import errors
from sparse_vdit.plans.profile import profiler as profiler_module
from sparse_vdit.plans.profile.candidates import default_candidates
from sparse_vdit.plans.profile.errors import CandidateEvaluator, sample_rows
from sparse_vdit.plans.profile.profiler import Profiler
from sparse_vdit.plans.profile.rules import paper_choice, paper_kinds, saving
from tolerances import assert_close

GRID = TokenGrid(5, 7, 9, prefix=3, suffix=2)
TILES = (32, 16)
PLAIN = (Dense(), Skip(), Diagonal(1, 0.25), MultiDiagonal(0.1, None), VerticalStripe())
CANDIDATES = (*PLAIN, Diagonal(0, order=SPATIOTEMPORAL))
HEADS, HEAD_DIM, DIM = 3, 24, 40


def inputs(batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, GRID.tokens, HEADS, HEAD_DIM, generator=generator) for _ in range(3))


def projection(seed=2):
    weight = torch.randn(DIM, HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(seed))
    return weight, torch.einsum("ohd,ohe->hde", weight, weight)


@pytest.mark.parametrize("number", range(len(CANDIDATES)), ids=[c.describe() for c in CANDIDATES])
def test_one_pass_equals_direct_computation(number):
    """With all rows sampled, every measure must be what masking S x S softmax gives."""
    q, k, v = inputs()
    weight, gram = projection()
    tiling = Tiling(GRID, CANDIDATES[number].order, *TILES)
    covered = tiling.query_tiles * tiling.query_tile
    evaluator = CandidateEvaluator(GRID, [CANDIDATES[number]], covered, *TILES)
    measured = evaluator.errors(q, k, v, gram, torch.Generator().manual_seed(0))

    rows = tiling.index[:covered]
    exact = pattern_attention(q, k, v, [Dense()] * HEADS, GRID, *TILES)[:, rows]
    sparse = pattern_attention(q, k, v, [CANDIDATES[number]] * HEADS, GRID, *TILES)[:, rows]
    difference = sparse - exact
    projected = torch.einsum("ohd,bshd->bsho", weight.double(), difference).square().sum(-1).mean((0, 1))
    power = torch.einsum("ohd,bshd->bsho", weight.double(), exact).square().sum(-1).mean((0, 1))
    expected = {
        "projected": projected,
        "relative": difference.square().sum((0, 1, 3)) / exact.square().sum((0, 1, 3)),
        "mse": difference.square().mean((0, 1, 3)),
        "power": power,
        "square": torch.einsum("ohd,bshd->bsho", weight.double(), difference).square().sum(-1).square().mean((0, 1)),
    }
    if not isinstance(CANDIDATES[number], Skip):
        mask = sequence_mask(CANDIDATES[number], GRID, *TILES)
        ones = torch.ones_like(v)
        full = masked_attention(q, k, ones * mask.any(), [torch.ones_like(mask)] * HEADS)
        assert torch.allclose(full, torch.ones_like(full))
        scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) * HEAD_DIM**-0.5
        kept = (scores.softmax(-1) * mask).sum(-1)[:, :, rows]
        expected["kept_mass"] = kept.mean((0, 2))
    for name, value in expected.items():
        torch.testing.assert_close(getattr(measured, name)[:, 0], value, rtol=1e-3, atol=1e-9, msg=name)


@pytest.mark.parametrize("pattern", [Routed(0.15), Routed(0.3, order="spatial")], ids=str)
def test_routed_candidates_are_judged_as_they_run(pattern):
    """Each (batch, head) has its own tiles: what the backend computes is what was judged."""
    q, k, v = inputs()
    tiling = Tiling(GRID, pattern.order, *TILES)
    covered = tiling.query_tiles * tiling.query_tile
    evaluator = CandidateEvaluator(GRID, [Dense(order=pattern.order), pattern], covered, *TILES)
    measured = evaluator.errors(q, k, v, None, torch.Generator().manual_seed(0))
    builder = TileListBuilder(GRID, *TILES)
    number = builder.add(pattern)
    sparse = sparse_attention(q, k, v, builder.build(), [number] * HEADS)
    rows = tiling.index[:covered]
    exact = pattern_attention(q, k, v, [Dense()] * HEADS, GRID, *TILES)
    expected = (sparse - exact)[:, rows].double().square().mean((0, 1, 3))
    assert expected.min() > 1e-3
    torch.testing.assert_close(measured.mse[:, 1], expected, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(measured.mse[:, 0], torch.zeros(HEADS, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_papers_rule_chooses_among_its_own_kinds():
    union = Union((Diagonal(), MultiDiagonal(order="spatial")))
    more = (Diagonal(shift=1), MultiDiagonal(every=2), MultiDiagonal(0.1, None, height_period=0.5))
    candidates = (Dense(), Routed(0.2), Diagonal(1, 0.1), union, *more, MultiDiagonal(0.1, None))
    assert paper_kinds(candidates).tolist() == [True, False, True, False, False, False, False, True]


def test_what_saves_nothing_is_no_choice():
    assert saving(torch.tensor([1.0, 0.98, 0.96, 1.0, 0.0])).tolist() == [True, False, True, False, True]
    in_disguise = Diagonal(8)  # on five frames
    profiler = Profiler("wan", "toy", 1, HEADS, HEAD_DIM, [Dense(), Skip(), in_disguise], [(1.0, 0.0)], rows=200,
                        query_tile=TILES[0], key_tile=TILES[1], flow="sequential", lam=0.0, epsilon=1e9)  # fmt: skip
    profiler.observe(0, 0.7, *inputs(), GRID, None)
    profile = profiler.profile()
    assert profile.header.densities[2] == 1 and profile.measures["mse"][0, 0, 0, 2] < 1e-9
    assert profile.votes[0, 0].argmax(-1).tolist() == [1] * HEADS


def test_plain_errors_without_a_projection():
    q, k, v = inputs()
    evaluator = CandidateEvaluator(GRID, CANDIDATES, 1000, *TILES)
    identity = torch.eye(HEAD_DIM).expand(HEADS, -1, -1)
    plain, through_identity = (
        evaluator.errors(q, k, v, gram, torch.Generator().manual_seed(0)) for gram in (None, identity)
    )
    torch.testing.assert_close(plain.projected, through_identity.projected)


def test_sampled_rows_are_spread_over_all_query_tiles():
    tiling = Tiling(GRID, "spatial", *TILES)
    rows = sample_rows(tiling, 3 * tiling.query_tiles, torch.Generator().manual_seed(4))
    assert len(rows.unique()) == len(rows)
    assert (rows // 32).bincount(minlength=tiling.query_tiles).tolist() == [3] * tiling.query_tiles
    assert len(sample_rows(tiling, 10_000, torch.Generator())) == tiling.query_tiles * 32
    assert len(sample_rows(Tiling(TokenGrid(1, 2, 3), "spatial", *TILES), 5, torch.Generator())) == 0


def test_small_chunks_of_rows_change_nothing(monkeypatch):
    q, k, v = inputs()
    whole, chunked = None, None
    for size in (errors.PARTIAL_SUM_BYTES, 20_000):
        monkeypatch.setattr(errors, "PARTIAL_SUM_BYTES", size)
        evaluator = CandidateEvaluator(GRID, CANDIDATES, 100, *TILES)
        whole, chunked = evaluator.errors(q, k, v, None, torch.Generator().manual_seed(0)), whole
    torch.testing.assert_close(whole.projected, chunked.projected)


@pytest.mark.parametrize("heads", [1, 3])
def test_masks_are_gathered_once_for_all_heads(monkeypatch, heads):
    """On a GPU they come from the host, 35 MB for each part of the rows of a long video."""
    made, plain = [], CandidateEvaluator._sampled
    monkeypatch.setattr(CandidateEvaluator, "_sampled", lambda self, *args: made.append(args) or plain(self, *args))
    evaluator = CandidateEvaluator(GRID, CANDIDATES, 100, *TILES)
    monkeypatch.setattr(errors, "PARTIAL_SUM_BYTES", 40 * 4 * (19 * HEAD_DIM + 3 * GRID.tokens))
    evaluator.errors(*(x[:, :, :heads] for x in inputs()), None, torch.Generator().manual_seed(0))
    assert len(made) == 2 * 3  # both orders, three parts of at most 40 rows


def test_every_candidate_is_judged_on_the_same_tokens():
    evaluator = CandidateEvaluator(GRID, CANDIDATES, 10_000, *TILES)
    tokens = evaluator.sample_tokens(torch.Generator().manual_seed(0))
    for order in ("spatial", "spatiotemporal"):
        tiling = Tiling(GRID, order, *TILES)
        assert set(tokens.tolist()) <= set(tiling.index[: tiling.query_tiles * 32].tolist())
    power = evaluator.errors(*inputs(), None, torch.Generator().manual_seed(0)).power
    torch.testing.assert_close(power, power[:, :1].expand_as(power))


def test_a_video_without_a_full_tile_is_refused():
    with pytest.raises(ValueError, match="too small a video"):
        CandidateEvaluator(TokenGrid(1, 5, 6), CANDIDATES, 10, *TILES)


def test_sampling_estimates_the_full_error():
    q, k, v = inputs(batch=1)
    full, sampled = (
        CandidateEvaluator(GRID, CANDIDATES, rows, *TILES).errors(q, k, v, None, torch.Generator().manual_seed(3)).mse
        for rows in (10_000, 90)
    )
    assert full[:, 0].abs().max() < 1e-10
    torch.testing.assert_close(sampled[:, 1:], full[:, 1:], rtol=0.35, atol=0)


def test_the_sampling_error_is_what_repeated_sampling_shows():
    """Of many profiles of the same call with other rows: the spread of their means is the one that each of them tells,
    or less, as rows are drawn from strata."""
    q, k, v = inputs(batch=1)
    profiles = []
    for seed in range(40):
        profiler = Profiler("wan", "toy", 1, HEADS, HEAD_DIM, CANDIDATES, [(1.0, 0.0)], rows=40, seed=seed,
                            query_tile=TILES[0], key_tile=TILES[1])  # fmt: skip
        profiler.observe(0, 0.7, q, k, v, GRID, None)
        profiles.append(profiler.profile())
    means = torch.stack([profile.measures["projected"][0, 0, :, 2:] for profile in profiles])
    told = torch.stack([profile.sampling_variance()[0, 0, :, 2:] for profile in profiles]).mean(0)
    ratio = (means.var(0) / told).sqrt()
    assert 0.5 < ratio.mean() < 1.1, ratio
    assert ratio.max() < 1.5, ratio


def make_profiler(flow, **settings):
    return Profiler("wan", "toy", 1, HEADS, HEAD_DIM, CANDIDATES, [(1.0, 0.5), (0.5, 0.0)], rows=200,
                    query_tile=TILES[0], key_tile=TILES[1], flow=flow, **settings)  # fmt: skip


def test_dense_flow_leaves_the_output_to_the_caller():
    assert make_profiler("dense").observe(0, 0.7, *inputs(), GRID, None) is None


def test_sequential_flow_returns_the_output_of_the_choice():
    """Algorithm 1: what flows on is each head's chosen pattern by Eq. 2 and 3."""
    q, k, v = inputs()
    profiler = make_profiler("sequential", lam=0.05, epsilon=0.04)
    output = profiler.observe(0, 0.7, q, k, v, GRID, None)
    profile = profiler.profile()
    densities = torch.tensor([pattern_density(pattern, GRID, *TILES) for pattern in CANDIDATES])
    loss = profile.measures["mse"][0, 0] + 0.05 * densities
    expected = []
    for row in loss.tolist():
        best = min(range(1, len(row)), key=lambda c: row[c])
        expected.append(0 if row[best] > 0.04 else best)
    assert profile.votes[0, 0].argmax(-1).tolist() == expected
    assert_close(output, pattern_attention(q, k, v, [CANDIDATES[c] for c in expected], GRID, *TILES))


@pytest.mark.parametrize(
    ("mse", "lam", "epsilon", "expected"),
    [
        ([0.0, 0.5, 0.2], 0.5, 1.0, 2),  # both under epsilon: the smaller loss
        ([0.0, 0.5, 0.3], 2.0, 1.0, 1),  # a large lambda prefers the sparser one
        ([0.0, 1.5, 1.3], 0.5, 1.0, 0),  # all above epsilon: dense
        ([0.0, 1.5, 0.99], 0.02, 1.0, 2),  # one just below
    ],
)
def test_equation_2_and_3(mse, lam, epsilon, expected):
    densities = torch.tensor([1.0, 0.0, 0.4])
    assert int(paper_choice(torch.tensor([mse]), densities, lam, epsilon)) == expected


def test_noise_levels_outside_the_bands_are_not_measured():
    profiler = Profiler("wan", "toy", 1, HEADS, HEAD_DIM, CANDIDATES, [(0.8, 0.4)], query_tile=32, key_tile=16)
    for sigma in (0.9, 0.4, 0.1):
        profiler.observe(0, sigma, *inputs(), GRID, None)
    with pytest.raises(ValueError, match="nothing was observed"):
        profiler.profile()
    profiler.observe(0, 0.8, *inputs(), GRID, None)
    assert profiler.profile().samples.tolist() == [[1]]


def test_tile_lists_are_made_only_for_what_flows_on(monkeypatch):
    """Those of all candidates are larger than a run may have where a video is long."""
    monkeypatch.setattr(profiler_module, "TileListBuilder", None)
    profiler = make_profiler("dense")
    profiler.observe(0, 0.7, *inputs(), GRID, None)
    assert profiler.profile().header.densities[:2] == (1.0, pattern_density(Skip(), GRID, *TILES))
    monkeypatch.undo()
    monkeypatch.setattr(sys.modules[__name__], "CANDIDATES", (*CANDIDATES[:3], Routed(0.2), *CANDIDATES[3:]))
    sequential = make_profiler("sequential")
    out = sequential.observe(0, 0.7, *inputs(), GRID, None)
    assert 3 not in sequential.list_of and len(sequential.list_of) == len(sequential.lists.densities)
    choice = [sequential.candidates[int(number)] for number in sequential.votes[0, 0].argmax(-1)]
    assert_close(out, pattern_attention(*inputs(), choice, GRID, *TILES))


def test_another_grid_in_the_middle_is_refused():
    profiler = make_profiler("dense")
    profiler.observe(0, 0.7, *inputs(), GRID, None)
    with pytest.raises(ValueError, match="token grid changed"):
        profiler.observe(0, 0.7, *inputs(), TokenGrid(5, 7, 9, 2, 3), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flow": "up"}, "'up'"),
        ({"bands": []}, "bands"),
        ({"bands": [(0.2, 0.5)]}, "bands"),
        ({"rows": 0}, "rows is 0"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Profiler("wan", "toy", 1, 1, 8, CANDIDATES, **{"bands": [(1.0, 0.0)], **settings})


def test_default_candidates_are_about_a_hundred_of_every_kind():
    candidates = default_candidates()
    kinds = {"dense", "skip", "diagonal", "multi_diagonal", "vertical_stripe", "union", "routed", "profiled_stripe"}
    assert {c.kind for c in candidates} == kinds
    assert 90 <= len(candidates) <= 120
    assert len(set(candidates)) == len(candidates)
    assert candidates[0] == Dense()


@pytest.mark.slow
def test_profiling_a_call_of_wan_in_720p_is_cheap():
    """At most 1 % of the dense call's operations and 400 MB, from at least 128 query tiles."""
    from benchmarks.quality.profile_cost import WAN_720P, cost

    row = cost(TokenGrid(*WAN_720P), 256)
    assert row["tokens"] == 75_600 and row["candidates"] >= 100
    assert row["fraction_of_dense"] <= 0.01 and row["query_tiles_seen"] >= 128
    assert row["peak_bytes"] <= 400e6
