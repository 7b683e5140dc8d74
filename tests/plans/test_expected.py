"""What is said of the distance to the dense video, before it is generated and after."""

from __future__ import annotations

import dataclasses
import json

import pytest
from load_pack import ROOT
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.plans.plan.plan import Plan, uniform_plan
from sparse_vdit.plans.view import expected


def plan_of(error: object) -> Plan:
    plan = uniform_plan("wan", 2, 3, 64, (5, 7, 9), Diagonal(0))
    parameters = {} if error is None else {"predicted_error": error}
    return dataclasses.replace(plan, provenance=dataclasses.replace(plan.provenance, parameters=parameters))


def test_a_smaller_error_is_closer_and_beyond_what_was_measured_nothing_is_gained() -> None:
    low, high = expected.MEASURED
    found = [expected.expected_psnr(plan_of(error)) for error in (0, low, (low + high) / 2, high, 3)]
    assert found[0] == found[1] > found[2] > found[3] == found[4]


@pytest.mark.parametrize("error", [None, "0.1", -1])
def test_nothing_is_said_of_a_plan_that_tells_no_error(error: object) -> None:
    assert expected.expected_psnr(plan_of(error)) is None
    assert expected.expected_distance(plan_of(error)) == ""


@pytest.mark.parametrize(("psnr", "words"), [(41, "hard to tell"), (31, "fine details"), (26, "details"), (9, "parts")])
def test_words(psnr: float, words: str) -> None:
    assert expected.in_words(psnr).startswith(words)


@pytest.mark.parametrize(("error", "span"), [(0.001, "44 dB or more"), (0.9, "24 dB or less")])
def test_beyond_what_was_measured_one_end_is_open(error: float, span: str) -> None:
    assert f", {span} (" in expected.expected_distance(plan_of(error))


def test_the_sentence_has_words_and_range() -> None:
    said = expected.expected_distance(plan_of(0.06))
    middle = expected.expected_psnr(plan_of(0.06))
    assert said.startswith(f"Expected: {expected.in_words(middle)}, ")
    assert f"{middle - 2 * expected.SPREAD:.0f} to {middle + 2 * expected.SPREAD:.0f} dB" in said


@pytest.mark.parametrize(("psnr", "how"), [(33.2, "more than"), (27.1, "less than")])
def test_compared_with_another_kernel(psnr: float, how: str) -> None:
    assert how in expected.beside_same_attention(psnr)


def test_the_numbers_are_those_that_were_measured() -> None:
    file = max((ROOT / "benchmarks" / "results").glob("expected_distance-*.json"))
    *plans, line = json.loads(file.read_text())["rows"]
    assert (line["slope"], line["at_one"], line["spread"]) == (expected.SLOPE, expected.AT_ONE, expected.SPREAD)
    errors = [row["predicted_error"] for row in plans]
    assert (min(errors), max(errors)) == expected.MEASURED
