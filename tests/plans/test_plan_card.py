"""The card of a plan: read back as it was written, and refused by field where it is broken."""

import dataclasses
import json

import pytest
from sample_plans import small_plan
from sparse_vdit.plans.plan.card import Card
from sparse_vdit.plans.plan.files import PlanError, plan_from_json, plan_to_json

CARD = Card(
    "Wan 2.1 14B T2V", "density of each head", "patterns", 0.25, (0.5, 0.25, 0.125, 0.0625), ((0, 2), (3, 0))
)


def broken(**changes):
    """A plan's text, with changes to its card's JSON."""
    data = json.loads(plan_to_json(small_plan(card=CARD)))
    data["card"].update(changes)
    return json.dumps(data)


@pytest.mark.parametrize("card", [CARD, dataclasses.replace(CARD, densities=(), kept_dense=())])
def test_a_card_is_read_back(card):
    plan = small_plan(card=card)
    text = plan_to_json(plan)
    assert plan_from_json(text) == plan
    assert plan_to_json(plan_from_json(text)) == text
    assert json.loads(text)["version"] == 2


def test_a_plan_without_a_card_is_written_as_before_there_were_any():
    data = json.loads(plan_to_json(small_plan()))
    assert data["version"] == 1 and "card" not in data
    with pytest.raises(PlanError, match=r"^card: is unknown"):
        plan_from_json(json.dumps({**data, "card": {}}))
    with pytest.raises(PlanError, match=r"^card: is missing"):
        plan_from_json(json.dumps({**data, "version": 2}))


@pytest.mark.parametrize(
    "changes, field, reason",
    [
        ({"model": 3}, "card.model", "is no text"),
        ({"model": "x" * 201}, "card.model", "201 characters"),
        ({"measured": "a\u0000b"}, "card.measured", "control character"),
        ({"not_measured": None}, "card.not_measured", "is no text"),
        ({"least_density": -0.1}, "card.least_density", "from 0 to 1"),
        ({"least_density": 1.1}, "card.least_density", "from 0 to 1"),
        ({"least_density": True}, "card.least_density", "finite number"),
        ({"densities": "0.5"}, "card.densities", "expected a list"),
        ({"densities": [0.5] * 3}, "card.densities", "3 entries, expected a list of 4 entries"),
        ({"densities": [0.5, 0.5, 0.5, 2]}, "card.densities[3]", "from 0 to 1"),
        ({"densities": [0.5, 0.5, None, 0]}, "card.densities[2]", "finite number"),
        ({"kept_dense": [[0]]}, "card.kept_dense[0]", "1 entries"),
        ({"kept_dense": [[0, 0], [4, 0]]}, "card.kept_dense[1]", "whole number from 0 to 3"),
        ({"kept_dense": [[0, 3]]}, "card.kept_dense[0]", "whole number from 0 to 2"),
        ({"kept_dense": [[0, True]]}, "card.kept_dense[0]", "True"),
        ({"kept_dense": [3]}, "card.kept_dense[0]", "expected a list"),
        ({"kept_dense": [[0, 0]] * 2049}, "card.kept_dense", "2049 entries"),
        ({"more": 1}, "card.more", "is unknown"),
    ],
)
def test_a_broken_card_is_refused_by_field(changes, field, reason):
    with pytest.raises(PlanError) as error:
        plan_from_json(broken(**changes))
    message = str(error.value)
    assert message.split(": ")[0] == field and reason in message
    assert len(message) < 500


def test_a_card_is_an_object_with_every_field():
    data = json.loads(plan_to_json(small_plan(card=CARD)))
    for field in list(data["card"]):
        left = {name: value for name, value in data["card"].items() if name != field}
        with pytest.raises(PlanError, match=rf"^card\.{field}: is missing"):
            plan_from_json(json.dumps({**data, "card": left}))
    with pytest.raises(PlanError, match=r"^card: \[\], expected an object"):
        plan_from_json(json.dumps({**data, "card": []}))
