"""What plans of unknown origin may cost: work and memory are known, and refused, before they are spent."""

import random
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from sample_plans import small_plan
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder, pattern_densities
from sparse_vdit.kernels.patterns import Diagonal, MultiDiagonal, Pattern, Union, VerticalStripe
from sparse_vdit.plans.plan.binding import BoundPlan
from sparse_vdit.plans.plan.plan import Band, Plan
from sparse_vdit.plans.plan.text import plan_from_text, plan_to_text

VIDEO = TokenGrid(21, 45, 80)  # 720p, 81 frames
SECONDS = 15.0  # of the process, on a busy machine; 74 to 252 without limits


def boxes(draw: random.Random) -> VerticalStripe:
    ends = [[(low, min(1.0, low + 1e-6)) for low in (draw.random() for _ in range(3))] for _ in range(8)]
    return VerticalStripe(tuple(tuple(bound for pair in box for bound in pair) for box in ends), order="spatial")


def periodic(number: int) -> Pattern:
    every, period = 1 + number // 32, 0.05 + number % 32 / 40
    return MultiDiagonal(0.0, 0.0, every, period, 0.9, order="spatial" if number % 2 else "spatiotemporal")


def shifted(number: int) -> Pattern:
    return Diagonal(0, number / 1e5, number / 1e5, number - 500, order="spatial" if number % 2 else "spatiotemporal")


def union(number: int) -> Pattern:
    draw = random.Random(number)
    return Union(tuple(boxes(draw) for _ in range(4)), order="spatial")


def plan_of(make: Callable[[int], Pattern], count: int, grid: tuple[int, int, int]) -> Plan:
    """`count` patterns in turn on 4 layers of 256 heads."""
    heads = tuple(tuple((layer * 256 + head) % count for head in range(256)) for layer in range(4))
    patterns = tuple(make(number) for number in range(count))
    return replace(small_plan(), heads=256, grid=grid, patterns=patterns, bands=(Band(1e6, 0.0, heads),))


@pytest.mark.parametrize("make", [periodic, shifted, union])
def test_a_plan_that_claims_a_small_grid_is_bounded_on_the_real_one(make: Callable[[int], Pattern]) -> None:
    plan = plan_of(make, 1024, (1, 1, 1))
    began = time.process_time()
    with pytest.raises(ValueError, match=r"1024 patterns.* are too many for 75600 tokens"):
        BoundPlan(plan).lists(VIDEO, "cpu")
    plan.pattern_densities()
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("make", [periodic, shifted, union])
def test_a_text_of_many_patterns_is_refused_before_it_is_drawn(make: Callable[[int], Pattern]) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=r"^patterns: 1024 patterns.* are too many for 75600 tokens"):
        plan_from_text(plan_to_text(plan_of(make, 1024, VIDEO.shape)))
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("make", [periodic, shifted])
def test_what_is_allowed_is_bounded(make: Callable[[int], Pattern]) -> None:
    """A plan of 154 patterns at 720p is realistic; its rows are interned in a few tables, not one for each."""
    plan = plan_of(make, 154, VIDEO.shape)
    began = time.process_time()
    densities = plan.pattern_densities()
    lists, table = BoundPlan(plan).lists(VIDEO, "cpu")
    assert time.process_time() - began < SECONDS
    assert [lists.densities[number] for number in table[0][0][:154]] == list(densities.values())


def test_rows_are_kept_in_few_tables() -> None:
    builder = TileListBuilder(TokenGrid(9, 45, 80))
    for number in range(8):
        builder.add(shifted(number))
    rows = sum(len(found[0]) for found in builder._lists)
    assert len(builder._kv_indices) <= 1 + 2 * 8 < rows


def test_periods_of_a_large_grid_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No table of distances of all pairs of tiles is made, which are 8 bytes each."""
    largest, whole = [0], torch.Tensor.div

    def div(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        largest.append(self.numel() * self.element_size())
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "div", div)
    pattern_densities([periodic(33)], TokenGrid(1, 1, 399_999))
    assert 0 < max(largest) <= 32 << 20
