"""Plans as text: read back whole, small, and refused where anything is wrong with them."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import struct
import zlib
from pathlib import Path

import pytest
from load_pack import ROOT
from sample_plans import PROVENANCE, large_plan, small_plan
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.plans.candidates import default_candidates
from sparse_vdit.plans.columns import ProfiledStripe
from sparse_vdit.plans.files import MOST_BYTES, PlanError, load_plan, plan_to_json
from sparse_vdit.plans.plan import Band, Plan
from sparse_vdit.plans.plan_text import MOST_CHARACTERS, plan_from_text, plan_to_text

SHIPPED = sorted(ROOT.glob("plans/*/*.json"))
GOOD = plan_to_text(small_plan())


def text_of(content: bytes, version: str = "1") -> str:
    """A text with the right checksum whose unpacked content is this."""
    packed = base64.urlsafe_b64encode(zlib.compress(content, 9)).decode()
    return f"sparse-vdit-plan:{version}:{hashlib.sha256(packed.encode()).hexdigest()[:12]}:{packed}"


def content(plan: Plan | None = None, table: bytes | None = None, **changes: object) -> bytes:
    """What a plan packs, with changes to its JSON and other heads."""
    data = json.loads(plan_to_json(plan or small_plan()))
    tables = [band.pop("heads") for band in data["bands"]]
    data.update(changes)
    header = json.dumps(data).encode()
    own = bytes(number for table in tables for row in table for number in row)
    return struct.pack("<I", len(header)) + header + (own if table is None else table)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_plan_travels(path: Path) -> None:
    plan = load_plan(path)
    text = plan_to_text(plan)
    assert plan_from_text(text) == plan
    assert len(text) <= 6 * 1024 and text.isprintable() and " " not in text
    assert json.loads(json.dumps(text)) == text


def test_two_bands_of_any_patterns_without_columns_of_their_own_are_small_enough() -> None:
    """40 x 40 heads in two bands, any candidates but stripes with columns of their own, which take more."""
    draw = random.Random(1)
    patterns = tuple(p for p in default_candidates() if not isinstance(p, ProfiledStripe))
    table = [tuple(tuple(draw.randrange(len(patterns)) for _ in range(40)) for _ in range(40)) for _ in range(2)]
    plan = Plan("wan", 40, 40, 128, (21, 45, 80), patterns, (Band(1.0, 0.9, table[0]), Band(0.9, 0.0, table[1])),
                "measured", PROVENANCE)  # fmt: skip
    text = plan_to_text(plan)
    assert plan_from_text(text) == plan
    assert len(text) <= 6 * 1024


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
    "too long": ("x" * (MOST_CHARACTERS + 1), "characters are too many"),
    "another version": (text_of(content(), "2"), "version 2, this pack reads 1: update"),
    "no base64": (GOOD.split(":")[0] + ":1:" + hashlib.sha256(b"$$$$").hexdigest()[:12] + ":$$$$", "holds no plan"),
    "no zlib": (
        "sparse-vdit-plan:1:" + hashlib.sha256(b"AAAA").hexdigest()[:12] + ":AAAA",
        "holds no plan",
    ),
    "half a surrogate pair": ("sparse-vdit-plan:1:x:\ud800", "is damaged"),
    "empty": (text_of(b""), "it is empty"),
    "length past the end": (text_of(struct.pack("<I", 2**32 - 1) + b"{}"), "holds no plan"),
    "no JSON": (text_of(struct.pack("<I", 4) + b"oops"), "holds no plan"),
    "nested too deep": (text_of(struct.pack("<I", 200_000) + b"[" * 200_000), "holds no plan"),
    "no object": (text_of(struct.pack("<I", 2) + b"[]"), "holds no plan"),
    "no bands": (text_of(content(bands=3)), "holds no plan"),
    "sizes that are none": (text_of(content(layers="4")), "no sizes"),
    "negative sizes": (text_of(content(layers=-4, heads=-3)), "no sizes"),
    "huge sizes": (text_of(content(layers=10**6, heads=10**6)), "heads, expected"),
    "too few heads": (text_of(content(table=b"\0" * 23)), "23 heads, expected 2 bands of 4 x 3"),
    "heads given twice": (
        text_of(content(bands=[{"sigma_high": 1.0, "sigma_low": 0.0, "heads": []}], table=b"\0" * 12)),
        "given twice",
    ),
    "a pattern that is not there": (text_of(content(table=b"\x09" * 24)), "bands[0].heads[0][0]"),
    "a path": (text_of(content(path="/etc/passwd")), "path: is unknown"),
    "an unknown pattern": (text_of(content(patterns=[{"kind": "evil"}] * 5)), "patterns[0]"),
    "a newer plan": (text_of(content(version=9)), "newer than this pack reads"),
}


@pytest.mark.parametrize(("text", "says"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_plan_is_refused(text: str, says: str) -> None:
    with pytest.raises(PlanError) as error:
        plan_from_text(text)
    assert says in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("size", [MOST_BYTES + 1, 100 * MOST_BYTES])
def test_what_unpacks_to_too_much_is_never_unpacked_whole(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = zlib.compressobj(9)
    bomb = b"".join(packed.compress(bytes(1_000_000)) for _ in range(size // 1_000_000)) + packed.compress(
        bytes(size % 1_000_000)
    )
    encoded = base64.urlsafe_b64encode(bomb + packed.flush()).decode()
    text = f"sparse-vdit-plan:1:{hashlib.sha256(encoded.encode()).hexdigest()[:12]}:{encoded}"
    says = "unpacks to more than" if len(text) <= MOST_CHARACTERS else "characters are too many"
    with pytest.raises(PlanError, match=says):
        plan_from_text(text)


def test_a_large_plan_travels_too() -> None:
    assert plan_from_text(plan_to_text(large_plan())) == large_plan()
