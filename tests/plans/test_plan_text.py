"""Plans as text: read back whole, small, and refused where anything is wrong with them."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import random
import zlib
from pathlib import Path

import pytest
from load_pack import ROOT
from sample_plans import PROVENANCE, large_plan, small_plan
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.plans.plan.files import MAX_PLAN_BYTES, PlanError, load_plan, plan_to_json
from sparse_vdit.plans.plan.plan import Band, Plan
from sparse_vdit.plans.plan.text import MAX_CHARACTERS, plan_from_text, plan_to_text
from sparse_vdit.plans.profile.candidates import default_candidates
from sparse_vdit.plans.profile.columns import ProfiledStripe

SHIPPED = sorted(ROOT.glob("plans/*/*.json"))
GOOD = plan_to_text(small_plan())


def text_of(content: bytes, version: str = "3") -> str:
    """A text with the right checksum whose unpacked content is this."""
    return text_of_packed(base64.urlsafe_b64encode(zlib.compress(content)).decode(), version)


def text_of_packed(packed: str, version: str = "3") -> str:
    """The same of what is packed already."""
    return f"sparse-vdit-plan:{version}:{hashlib.sha256(packed.encode()).hexdigest()[:12]}:{packed}"


def content(**changes: object) -> bytes:
    """What a plan packs, with changes to its JSON."""
    return json.dumps({**json.loads(plan_to_json(small_plan())), **changes}).encode()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_plan_travels(path: Path) -> None:
    plan = load_plan(path)
    text = plan_to_text(plan)
    assert plan_from_text(text) == plan
    assert len(text) <= 6 * 1024 and text.isprintable() and " " not in text
    assert json.loads(json.dumps(text)) == text


def large(bands: int, used: int, stay: float) -> Plan:
    """40 x 40 heads, few kinds of which are common: in each band a share of them stays as it was in the one before."""
    draw = random.Random(1)
    plain = [p for p in default_candidates() if not isinstance(p, ProfiledStripe)]
    patterns, weights = draw.sample(plain, used), [1 / (2 + n) for n in range(used)]

    def drawn() -> int:
        return draw.choices(range(used), weights)[0]

    tables = [[[drawn() for _ in range(40)] for _ in range(40)]]
    for _ in range(1, bands):
        tables.append([[n if draw.random() < stay else drawn() for n in row] for row in tables[-1]])
    edges = (*(1.0, 0.97, 0.93, 0.8)[:bands], 0.0)
    heads = [tuple(map(tuple, table)) for table in tables]
    made = tuple(Band(*edge, table) for edge, table in zip(itertools.pairwise(edges), heads, strict=True))
    return Plan("wan", 40, 40, 128, (21, 45, 80), tuple(patterns), made, "measured", PROVENANCE)


@pytest.mark.parametrize(("bands", "used", "stay"), [(1, 100, 0), (2, 111, 0), (4, 60, 0.6)], ids=str)
def test_plans_of_large_models_fit_into_a_widget(bands: int, used: int, stay: float) -> None:
    plan = large(bands, used, stay)
    text = plan_to_text(plan)
    assert plan_from_text(text) == plan
    assert len(text) <= 12 * 1024


def test_more_patterns_than_a_byte_counts() -> None:
    patterns = tuple(Diagonal(n) for n in range(300))
    table = tuple(tuple(100 * head + layer for head in range(3)) for layer in range(4))
    plan = small_plan(patterns=patterns, bands=(Band(1.0, 0.0, table),))
    assert plan_from_text(plan_to_text(plan)) == plan


def test_spaces_and_line_breaks_do_not_matter() -> None:
    broken = "\n  ".join(GOOD[at : at + 60] for at in range(0, len(GOOD), 60)) + "\r\n"
    assert plan_from_text(broken) == small_plan()


def test_every_changed_character_is_noticed() -> None:
    for at in range(0, len(GOOD), 7):
        other = "A" if GOOD[at] != "A" else "B"
        with pytest.raises(PlanError):
            plan_from_text(GOOD[:at] + other + GOOD[at + 1 :])


@pytest.mark.parametrize("length", [0, 1, 17, 30, 31, 40, len(GOOD) // 2, len(GOOD) - 1])
def test_a_part_of_the_text_is_no_plan(length: int) -> None:
    with pytest.raises(PlanError, match="copy the whole text"):
        plan_from_text(GOOD[:length])


HOSTILE = {
    "nothing": ("", "is no plan"),
    "prose": ("a plan of mine: take it", "is no plan"),
    "a file's JSON": (plan_to_json(small_plan()), "is no plan"),
    "too long": ("x" * (MAX_CHARACTERS + 1), "characters are too many"),
    "an older version": (text_of(content(), "2"), "version '2', this pack reads 3: ask for it again"),
    "a newer version": (text_of(content(), "33"), "version '33', this pack reads 3: update"),
    "no version": (text_of(content(), ""), "version '', this pack reads 3: update"),
    "a digit of another kind": (text_of(content(), "²"), "this pack reads 3: update"),
    "no base64": (text_of_packed("$$$$"), "cannot be unpacked, copy the text"),
    "no zlib": (text_of_packed("_AAA"), "cannot be unpacked, copy the text"),
    "it ends too early": (
        text_of_packed(base64.urlsafe_b64encode(zlib.compress(content())[:-9]).decode()),
        "ends too early",
    ),
    "something follows": (
        text_of_packed(base64.urlsafe_b64encode(zlib.compress(content()) + b"more").decode()),
        "something follows",
    ),
    "half a surrogate pair": ("sparse-vdit-plan:3:x:\ud800", "is damaged"),
    "no UTF-8": (text_of(b"\xff\xfe"), "cannot be unpacked, copy the text"),
    "empty": (text_of(b""), "is not JSON"),
    "no JSON": (text_of(b"oops"), "is not JSON"),
    "nested too deep": (text_of(b"[" * 200_000), "nested too deep"),
    "no object": (text_of(b"[]"), "expected a JSON object"),
    "no bands": (text_of(content(bands=3)), "bands"),
    "sizes that are none": (text_of(content(layers="4")), "layers"),
    "patterns that are missing": (text_of(content(patterns=[])), "patterns"),
    "patterns that are none": (text_of(content(patterns=[3] * 5)), "patterns[0]"),
    "a path": (text_of(content(path="/etc/passwd")), "path: is unknown"),
    "an unknown pattern": (text_of(content(patterns=[{"kind": "evil"}] * 5)), "patterns[0]"),
    "a newer plan": (text_of(content(version=9)), "newer than this pack reads"),
}


@pytest.mark.parametrize(("text", "says"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_plan_is_refused(text: str, says: str) -> None:
    with pytest.raises(PlanError) as error:
        plan_from_text(text)
    assert says in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("size", [MAX_PLAN_BYTES + 1, 20 * MAX_PLAN_BYTES])
def test_what_unpacks_to_too_much_is_never_unpacked_whole(size: int) -> None:
    with pytest.raises(PlanError, match="unpacks to more than"):
        plan_from_text(text_of(bytes(size)))


def test_a_large_plan_travels_too() -> None:
    assert plan_from_text(plan_to_text(large_plan())) == large_plan()
