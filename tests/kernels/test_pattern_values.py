"""Parameters of patterns: what they accept, how they are written, and what they say about bad values."""

import json

import pytest
from sparse_vdit.kernels.patterns import (
    PATTERNS,
    Dense,
    Diagonal,
    MultiDiagonal,
    Skip,
    Union,
    VerticalStripe,
    pattern_from_dict,
)

FIRST_FRAME = (0, 0, 0, 1, 0, 1)


@pytest.mark.parametrize(
    "pattern",
    [
        Dense(),
        Skip(order="spatiotemporal"),
        Diagonal(frames=2, height=0.2, width=0.15),
        MultiDiagonal(height=None, width=0.1),
        VerticalStripe((FIRST_FRAME, (0.4, 0.6, 0.25, 0.5, 0.3, 0.3))),
    ],
    ids=repr,
)
def test_dict_round_trip_through_json(pattern):
    data = json.loads(json.dumps(pattern.to_dict()))
    assert data["kind"] == type(pattern).kind and data["order"] == pattern.order
    again = pattern_from_dict(data)
    assert type(again) is type(pattern) and again == pattern and hash(again) == hash(pattern)


def test_kinds_and_descriptions():
    assert list(PATTERNS) == ["dense", "skip", "diagonal", "multi_diagonal", "vertical_stripe", "union", "routed"]
    assert Dense().describe() == "dense" and Skip().describe() == "skip"
    assert Diagonal(frames=1).describe() == "diagonal, own frame +-1"
    assert Diagonal(frames=2, height=0.1).describe() == "diagonal, own frame +-2, height +-10%"
    assert MultiDiagonal(height=0.1, width=None).describe() == "multi-diagonal, height +-10%, whole width"
    assert VerticalStripe().describe() == "vertical stripe, 1 column"
    assert VerticalStripe((FIRST_FRAME, FIRST_FRAME)).describe() == "vertical stripe, 2 columns"


def test_orders_that_suit_the_kinds():
    assert [PATTERNS[kind]().order for kind in ("diagonal", "multi_diagonal", "vertical_stripe")] == [
        "spatial",
        "spatiotemporal",
        "spatial",
    ]


NAN = float("nan")


@pytest.mark.parametrize(
    "make, fragment",
    [
        (lambda: Dense(order="raster"), "order is 'raster', expected one of spatial, spatiotemporal"),
        (lambda: Skip(order=None), "order is None"),
        (lambda: Diagonal(order=["spatial"]), "order is \\['spatial'\\]"),
        (lambda: Diagonal(frames=-1), "frames is -1, expected a whole number from 0"),
        (lambda: Diagonal(frames=1.0), "frames is 1.0"),
        (lambda: Diagonal(frames=True), "frames is True"),
        (lambda: Diagonal(frames=None), "frames is None"),
        (lambda: Diagonal(frames="1"), "frames is '1'"),
        (lambda: Diagonal(frames=10_001), "frames is 10001"),
        (lambda: Diagonal(height=1.01), "height is 1.01, expected null or a number from 0 to 1"),
        (lambda: Diagonal(height=-0.1), "height is -0.1"),
        (lambda: Diagonal(width=NAN), "width is nan"),
        (lambda: Diagonal(width=float("inf")), "width is inf"),
        (lambda: Diagonal(width=False), "width is False"),
        (lambda: Diagonal(width="0.5"), "width is '0.5'"),
        (lambda: MultiDiagonal(height=2), "height is 2"),
        (lambda: MultiDiagonal(width=[0.1]), "width is \\[0.1\\]"),
        (lambda: MultiDiagonal(height=None, width=None), "height and width are both null"),
        (lambda: VerticalStripe(()), "columns is \\(\\), expected 1 to 64 boxes"),
        (lambda: VerticalStripe((FIRST_FRAME,) * 65), "expected 1 to 64 boxes"),
        (lambda: VerticalStripe(None), "columns is None"),
        (lambda: VerticalStripe("000101"), "columns is '000101'"),
        (lambda: VerticalStripe((FIRST_FRAME, (0, 1))), "columns\\[1\\] is \\(0, 1\\), expected six fractions"),
        (lambda: VerticalStripe((FIRST_FRAME, 3)), "columns\\[1\\] is 3"),
        (lambda: VerticalStripe(((0, 0, 0, 1.5, 0, 1),)), "columns\\[0\\].* 1.5"),
        (lambda: VerticalStripe(((0, 0, 0, NAN, 0, 1),)), "columns\\[0\\].* nan"),
        (lambda: VerticalStripe(((0, True, 0, 1, 0, 1),)), "columns\\[0\\].* True"),
        (lambda: VerticalStripe(((0, 0, 0, 1, 0.6, 0.5),)), "columns\\[0\\].*lower bound is above its upper bound"),
        (lambda: VerticalStripe(((0, None, 0, 1, 0, 1),)), "columns\\[0\\]"),
    ],
)
def test_constructors_refuse(make, fragment):
    with pytest.raises(ValueError, match=fragment):
        make()


def test_missing_bound_is_named_as_such():
    with pytest.raises(ValueError) as error:
        VerticalStripe(((0, None, 0, 1, 0, 1),))
    assert "None" in str(error.value) and "null or" not in str(error.value)


@pytest.mark.parametrize(
    "data, fragment",
    [
        (None, "None is no pattern, expected an object with a kind"),
        (["dense"], "is no pattern"),
        ({}, "kind is None, expected one of dense, skip"),
        ({"kind": "Dense"}, "kind is 'Dense'"),
        ({"kind": ["dense"]}, "kind is \\['dense'\\]"),
        ({"kind": "dense"}, "dense lacks its parameter 'order'"),
        ({"kind": "dense", "order": "spatial", "frames": 1}, "dense has no parameter 'frames', it has order"),
        ({"kind": "diagonal", "order": "spatial", "frames": 1, "height": None}, "diagonal lacks its parameter 'width'"),
        ({"kind": "diagonal", "order": "spatial", "frames": -1, "height": None, "width": None}, "frames is -1"),
        ({"kind": "vertical_stripe", "order": "spatial", "columns": {"0": 1}}, "columns is"),
    ],
)
def test_pattern_from_dict_refuses(data, fragment):
    with pytest.raises(ValueError, match=fragment):
        pattern_from_dict(data)


def test_plans_from_before_a_parameter_mean_what_they_meant():
    data = {"kind": "diagonal", "order": "spatial", "frames": 2, "height": None, "width": 0.2}
    assert pattern_from_dict(data) == Diagonal(2, None, 0.2)
    data = {"kind": "multi_diagonal", "order": "spatiotemporal", "height": 0.1, "width": 0.2}
    assert pattern_from_dict(data) == MultiDiagonal(0.1, 0.2)


@pytest.mark.parametrize(
    "pattern, words",
    [
        (Diagonal(1, shift=-2), "diagonal, frame -2 from the own +-1"),
        (MultiDiagonal(0.1, None, 3), "multi-diagonal, height +-10%, whole width, every 3 frames"),
        (MultiDiagonal(None, 0.05, width_period=0.5), "multi-diagonal, whole height, width +-5% every 50%"),
        (
            Union((Diagonal(), MultiDiagonal(order="spatial"))),
            "diagonal, own frame +-0; with multi-diagonal, height +-0%, width +-0%",
        ),
    ],
    ids=repr,
)
def test_new_windows_in_words(pattern, words):
    assert pattern.describe() == words
