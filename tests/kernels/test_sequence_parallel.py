"""Sequence parallelism: heads dealt to ranks evenly, and processes that together give what one process gives."""

from __future__ import annotations

import random

import pytest
import torch
import torch.multiprocessing
import ulysses_ranks
from load_pack import ROOT
from sparse_vdit.kernels.sequence_parallel import deal_heads
from sparse_vdit.plans.plan.files import load_plan
from tolerances import assert_close
from ulysses_ranks import CASES

RANKS = (2, 4)


@pytest.fixture(scope="module", params=RANKS, ids=lambda ranks: f"{ranks} processes")
def computed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each rank gave for all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(ulysses_ranks.work, (request.param, str(folder)), request.param)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("name", CASES)
def test_processes_together_give_what_one_gives(computed: list[dict], name: str) -> None:
    case, ranks = CASES[name], len(computed)
    grid, parts = case.padded(ranks)
    # of each part the tokens of all ranks, one rank after the other
    shards = [found[name].split(parts, 1) for found in computed]
    whole = torch.cat([torch.cat(of_part, 1) for of_part in zip(*shards, strict=True)], 1)
    assert torch.equal(whole, case.one_process(grid))
    assert_close(case.without_pads(whole, grid), case.one_process(case.grid))


def test_pads_count_where_nothing_hides_them() -> None:
    case = CASES["odd video"]
    grid, _ = case.padded(2)
    lists, numbers = case.lists(grid)
    qkv = [case.with_pads(x, grid) for x in case.qkv]
    shown = ulysses_ranks.sparse_attention(*qkv, lists, numbers, "torch")
    with pytest.raises(AssertionError):
        assert_close(case.without_pads(shown, grid), case.one_process(case.grid))


def test_every_rank_refuses_what_one_cannot_compute(computed: list[dict]) -> None:
    assert {found["error"] for found in computed} == {
        "head_lists [0, 0, 0, 9] do not give one of 1 lists to each of 4 heads"
    }


def test_each_head_is_dealt_once() -> None:
    numbers = random.Random(0)
    for _ in range(200):
        heads = numbers.randint(1, 40)
        ranks = numbers.randint(1, heads)
        costs = [numbers.choice((0.0, 0.05, numbers.random())) for _ in range(heads)]
        dealt = deal_heads(costs, ranks)
        assert len(dealt) == ranks and all(dealt)
        assert sorted(sum(dealt, ())) == list(range(heads))


def test_a_dense_head_has_a_rank_of_its_own() -> None:
    assert deal_heads([0.1, 0.1, 1.0, 0.1, 0.1], 2) == ((2,), (0, 1, 3, 4))


def test_heads_are_swapped_where_that_is_more_even() -> None:
    assert sorted(sum((8, 7, 6, 5, 4)[head] for head in heads) for heads in deal_heads([8, 7, 6, 5, 4], 2)) == [15, 15]


@pytest.mark.parametrize("ranks", [0, 4])
def test_there_must_be_a_head_for_each_rank(ranks: int) -> None:
    with pytest.raises(ValueError, match=f"3 heads cannot be dealt to {ranks} ranks, use 1 to 3 ranks"):
        deal_heads([1.0, 1.0, 1.0], ranks)


SHIPPED = sorted(
    path for path in (ROOT / "plans").glob("*/*.json") if not path.name.endswith(".calibrate.json")
)  # all heads of a plan that is still to be measured are alike

MOST = {40: {2: 1.001, 4: 1.004, 8: 1.02}, 24: {2: 1.003, 4: 1.015, 8: 1.08}, 12: {2: 1.01, 4: 1.12}}
"""By heads of the model and ranks: the slowest ranks' time, summed over layers, to the mean. With few heads for a rank,
some are larger than others together."""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_ranks_have_about_the_same_to_do_by_shipped_plans(path: object) -> None:
    plan = load_plan(path)
    densities = plan.pattern_densities()
    rows = [[densities[number] for number in row] for band in plan.bands for row in band.heads]
    for ranks, most in MOST[plan.heads].items():
        slowest = sum(max(sum(costs[head] for head in heads) for heads in deal_heads(costs, ranks)) for costs in rows)
        mean = sum(map(sum, rows)) / ranks
        assert slowest / mean <= most, ranks
