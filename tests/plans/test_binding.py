"""Plans bound to models and grids."""

import pytest
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal
from sparse_vdit.plans.plan.binding import KEPT_GRIDS, BoundPlan
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance

PATTERNS = (Dense(), Diagonal(1), MultiDiagonal(0.1, 0.1))
PLAN = Plan(
    "wan", 2, 3, 128, (9, 12, 15), PATTERNS,
    (Band(0.9, 0.5, ((0, 1, 2), (1, 1, 1))), Band(0.5, 0.0, ((2, 2, 0), (0, 0, 0)))),
    "measured", Provenance(),
)  # fmt: skip


@pytest.mark.parametrize("grid", [TokenGrid(9, 12, 15), TokenGrid(5, 7, 11, prefix=4)], ids=str)
def test_lists_are_those_of_the_plans_patterns(grid):
    lists, table = BoundPlan(PLAN, 32, 16).lists(grid, "cpu")
    for number, band in enumerate(PLAN.bands):
        for layer in range(PLAN.layers):
            densities = [lists.densities[n] for n in table[number][layer]]
            alone = [
                BoundPlan(_uniform(PATTERNS[p]), 32, 16).lists(grid, "cpu")[0].densities[0] for p in band.heads[layer]
            ]
            assert densities == alone


def _uniform(pattern):
    return Plan("wan", 1, 1, 128, (9, 12, 15), (pattern,), (Band(1.0, 0.0, ((0,),)),), "measured", Provenance())


def test_equal_patterns_share_one_list():
    lists, table = BoundPlan(PLAN).lists(TokenGrid(9, 12, 15), "cpu")
    assert len(lists.densities) == 3
    assert table[0][1] == (table[0][0][1],) * 3


def test_lists_are_built_once_per_grid_and_old_grids_are_dropped():
    bound = BoundPlan(PLAN)
    first = bound.lists(TokenGrid(9, 12, 15), "cpu")
    assert bound.lists(TokenGrid(9, 12, 15), "cpu") is first
    for frames in range(1, KEPT_GRIDS + 1):
        bound.lists(TokenGrid(frames, 12, 15), "cpu")
    assert bound.lists(TokenGrid(9, 12, 15), "cpu") is not first


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (("wan", 2, 3, 128), None),
        (("hunyuan", 2, 3, 128), "family"),
        (("wan", 40, 3, 128), "layers 40"),
        (("wan", 2, 12, 128), "heads 12"),
        (("wan", 2, 3, 64), "head_dim 64"),
    ],
)
def test_mismatch_names_what_differs(model, message):
    found = BoundPlan(PLAN).mismatch(*model)
    assert found is None if message is None else message in found


def test_far_grids_warn_and_near_ones_do_not():
    bound = BoundPlan(PLAN)
    assert bound.distance_warning(TokenGrid(9, 24, 15)) is None
    assert "height is far off" in bound.distance_warning(TokenGrid(9, 25, 15))
    assert "frames is far off" in bound.distance_warning(TokenGrid(4, 12, 15))
    assert bound.distance_warning(TokenGrid(*PLAN.grid, prefix=200)) is None  # the text is the model's, not the plan's


def test_a_density_far_from_the_plans_own_warns_with_both():
    plan, grid = _uniform(Diagonal(0)), TokenGrid(17, 23, 29)
    own, here = plan.density(), plan.density(grid)
    assert own > 1.5 * here
    found = BoundPlan(plan).distance_warning(grid)
    assert f"measured on 9x12x15 tokens at density {own:.2f}" in found
    assert f"this video has 17x23x29 tokens, where its density is {here:.2f}: density is far off" in found
    near = TokenGrid(10, 12, 15)
    assert own < 1.5 * plan.density(near)
    assert BoundPlan(plan).distance_warning(near) is None


def test_layers_that_are_dense_for_want_of_tokens_are_told_from_dense_ones():
    bound, small = BoundPlan(PLAN), TokenGrid(2, 7, 5)
    assert bound.too_small(small, 1, 1) is None  # Dense() everywhere
    assert bound.too_small(small, 0, 1) == "2x7x5 tokens are too few for patterns that were measured on 9x12x15 tokens"
