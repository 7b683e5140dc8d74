"""Pictures of plans and patterns: right size, right colours in the right places."""

import dataclasses

import numpy as np
import pytest
from sample_plans import large_plan, small_plan
from sparse_vdit.kernels.patterns import PATTERNS, Dense, Diagonal, Skip
from sparse_vdit.plans.plan.plan import EVERY_SIGMA, Band, uniform_plan
from sparse_vdit.plans.view.colours import (
    COLOURS,
    MARKS,
    SMALLEST_MARKED,
    UNSHADED,
    head_cell,
    ink_on,
    kind_colour,
    shaded_colour,
)
from sparse_vdit.plans.view.drawing import draw_plan

pytest.importorskip("PIL")


def test_plan_map_has_a_cell_for_each_head():
    """Heads of 48 pixels, the map 72 pixels from the left: what is drawn beside and in the middle of each cell."""
    kinds = ("skip", "dense", "diagonal")
    heads = ((1, 0, 0), (0, 0, 2), (0, 0, 0), (2, 1, 0))
    alone = uniform_plan("wan", 4, 3, 128, (5, 4, 32), Dense())
    patterns = (Skip(), Dense(), Diagonal())
    plan = dataclasses.replace(alone, patterns=patterns, bands=(Band(1, 0, heads),))
    picture = draw_plan(plan)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    dark = (picture == COLOURS["dense"]).all(-1).sum(1)
    top = int((dark == 47).nonzero()[0][0]) - 1  # the dense head of the first layer, below a hairline
    # a diagonal head of frames of one tile each computes a fifth of the pairs
    colours = {**COLOURS, "diagonal": shaded_colour("diagonal", 0.2)}
    for layer, row in enumerate(heads):
        for head, number in enumerate(row):
            y, x = top + 48 * layer, 24 + 72 + 48 * head
            colour = colours[kinds[number]]
            assert tuple(picture[y + 4, x + 24]) == colour, (layer, head)
            marked = kinds[number] == "diagonal"
            assert tuple(picture[y + 24, x + 24]) == (ink_on(colour) if marked else colour), (layer, head)


@pytest.mark.parametrize("size", [*range(SMALLEST_MARKED, 30), 48])
def test_kinds_differ_by_more_than_hue(size):
    """Marks of two kinds are never the same, and each is three times as light or dark as its cell, or more."""
    masks = set()
    for kind in PATTERNS:
        for density in (0.0, 0.03, 0.3, 1.0):
            cell = head_cell(kind, density, size)
            colour = tuple(cell[0, 0])
            assert colour == shaded_colour(kind, density)
            mask = (cell != colour).any(-1)
            assert mask.any() == (kind not in UNSHADED)
            assert not mask[0].any() and not mask[:, 0].any()  # where hairlines run
            if kind in MARKS:
                lights = sorted(light(c) + 0.05 for c in (colour, ink_on(colour)))
                assert lights[1] / lights[0] > 3
        masks.add(mask.tobytes())
    assert len(masks) == len(PATTERNS) - len(UNSHADED) + 1
    plain = sorted(light(kind_colour(kind)) + 0.05 for kind in UNSHADED)
    assert plain[1] / plain[0] > 3


def light(colour):
    """Relative luminance of sRGB."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(colour) / 255]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_cells_without_room_have_colours_alone():
    for kind in MARKS:
        assert (head_cell(kind, 0.4, SMALLEST_MARKED - 1) == shaded_colour(kind, 0.4)).all()


def test_the_picture_says_what_to_expect_and_from_whom():
    """More is written where a plan tells more: the heading alone differs."""
    plan = small_plan()
    told = {
        "attention_speedup": 2.5,
        "times": "measured on a card with quite a long name, as cards have them, all of it",
    }
    longer = dataclasses.replace(plan.provenance, parameters=told)
    first, second = (draw_plan(p) for p in (plan, dataclasses.replace(plan, provenance=longer)))
    assert second.shape[1] > first.shape[1]


@pytest.mark.parametrize("plan", [small_plan(), large_plan(grid=(9, 16, 12))], ids=["4x3", "40x40"])
def test_plans_of_any_size_are_drawn(plan):
    picture = draw_plan(plan)
    assert picture.ndim == 3 and 300 < picture.shape[0] < 2000 and 300 < picture.shape[1] < 2000
    assert (picture[0] == 255).all() and (picture[:, -1] == 255).all()  # a margin all round


@pytest.mark.parametrize("layers, heads, bands", [(1, 1, 1), (60, 24, 1), (512, 256, 1), (2, 3, 64)])
def test_extreme_plans_are_drawn(layers, heads, bands):
    table = ((0,) * heads,) * layers
    plan = uniform_plan("wan", layers, heads, 64, (3, 2, 2), Diagonal())
    steps = tuple(Band(float(n + 1), float(n), table) for n in reversed(range(bands)))
    picture = draw_plan(dataclasses.replace(plan, bands=steps))
    assert max(picture.shape) < 6000


@pytest.mark.parametrize(
    ("high", "low", "words"),
    [
        (EVERY_SIGMA, 0.0, "all noise levels"),
        (EVERY_SIGMA, 0.937, "noise above 0.937"),
        (0.93721, 0.5, "noise 0.9372 to 0.5"),
    ],
)
def test_noise_levels_in_words(high: float, low: float, words: str) -> None:
    assert Band(high, low, ((0,),)).levels() == words


def test_lower_density_is_paler():
    for kind in ("diagonal", "multi_diagonal", "vertical_stripe"):
        light = [sum(shaded_colour(kind, density)) for density in (0, 0.05, 0.2, 0.5, 1)]
        assert light == sorted(set(light), reverse=True)
        assert shaded_colour(kind, 1) == COLOURS[kind]
