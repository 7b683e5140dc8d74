"""The solver against every combination, its bound, and its size."""

import itertools

import pytest
import torch
from sparse_vdit.plans.search.lagrange import OutOfReachError, solve


def random_costs(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    spent = torch.rand(shape, generator=generator, dtype=torch.float64)
    objective = (1 - spent).square() * torch.rand(*shape[:-1], 1, generator=generator, dtype=torch.float64)
    return objective * (1 + 0.2 * torch.rand(shape, generator=generator, dtype=torch.float64)), spent


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [1.5, 2.5, 3.5])
def test_between_the_bound_and_the_best_of_all_choices(seed, limit):
    objective, spent = random_costs(seed, 5, 7)
    found = solve(objective, spent, limit)
    best = min(
        sum(objective[h, c].item() for h, c in enumerate(combination))
        for combination in itertools.product(range(7), repeat=5)
        if sum(spent[h, c].item() for h, c in enumerate(combination)) <= limit
    )
    rows = torch.arange(5)
    assert spent[rows, found.choice].sum() <= limit * (1 + 1e-8)
    assert found.objective == pytest.approx(objective[rows, found.choice].sum().item())
    assert found.bound <= best + 1e-12
    assert best - 1e-12 <= found.objective <= best * 1.25 + 1e-12
    assert found.gap >= (best - found.bound) / abs(found.bound) - 1e-9


def test_infinite_entries_are_never_taken():
    objective = torch.tensor([[0.0, 1.0, 2.0], [torch.inf, 5.0, 1.0]], dtype=torch.float64)
    spent = torch.tensor([[torch.inf, 1.0, 0.5], [0.0, 1.0, 2.0]], dtype=torch.float64)
    assert solve(objective, spent, 3.0).choice.tolist() == [1, 2]


def test_out_of_reach_says_by_how_much():
    objective, spent = random_costs(1, 3, 4)
    with pytest.raises(OutOfReachError) as error:
        solve(objective, spent, spent.min(-1).values.sum().item() / 2)
    assert error.value.times == pytest.approx(2, rel=0.01)


def test_many_heads_are_solved_to_a_small_gap():
    """40 layers of 40 heads in 8 bands: the rest of the budget is spent in a few passes, not head by head."""
    objective, spent = random_costs(2, 8, 40, 40, 101)
    found = solve(objective, spent, 0.3 * 8 * 1600)
    assert found.choice.shape == (8, 40, 40)
    assert found.gap < 1e-4
