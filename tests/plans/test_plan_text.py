"""Plans as text: read back whole, small, and refused where anything is wrong with them."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import lzma
import random
import struct
from pathlib import Path

import pytest
import torch
from load_pack import ROOT
from sample_plans import PROVENANCE, large_plan, small_plan
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.order import FLAT
from sparse_vdit.kernels.patterns import Diagonal, VerticalStripe
from sparse_vdit.kernels.tiling import Tiling
from sparse_vdit.plans.plan.files import MOST_BYTES, PlanError, load_plan, plan_to_json
from sparse_vdit.plans.plan.plan import Band, Plan
from sparse_vdit.plans.plan.text import MOST_CHARACTERS, plan_from_text, plan_to_text
from sparse_vdit.plans.profile.candidates import default_candidates
from sparse_vdit.plans.profile.columns import STRIPE_SHARES, Cells, ProfiledStripe
from sparse_vdit.plans.search.search import MOST_STRIPES

SHIPPED = sorted(ROOT.glob("plans/*/*.json"))
GOOD = plan_to_text(small_plan())


LZMA = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "dict_size": 2**20, "lc": 0, "pb": 0}]}


def text_of(content: bytes, version: str = "2") -> str:
    """A text with the right checksum whose unpacked content is this."""
    return text_of_packed(base64.urlsafe_b64encode(lzma.compress(content, **LZMA)).decode(), version)


def text_of_packed(packed: str, version: str = "2") -> str:
    """The same of what is packed already."""
    return f"sparse-vdit-plan:{version}:{hashlib.sha256(packed.encode()).hexdigest()[:12]}:{packed}"


def content(table: bytes | None = None, columns: bytes = b"", **changes: object) -> bytes:
    """What a plan packs, with changes to its JSON, other heads and other columns."""
    data = {**json.loads(plan_to_json(small_plan())), "axes": []}
    tables = [band.pop("heads") for band in data["bands"]]
    data.update(changes)
    header = json.dumps(data).encode()
    own = bytes(number + 1 for table in tables for row in table for number in row)
    return struct.pack("<I", len(header)) + header + (own if table is None else table) + columns


def striped(axes: list, columns: bytes = b"", count: int = 5) -> bytes:
    """Content of a plan whose patterns are all stripes with columns as bits."""
    patterns = [{"kind": "vertical_stripe", "columns": None, "order": "flat"}] * count
    return content(table=b"\1" * 24 * (1 + (count > 255)), columns=columns, patterns=patterns, axes=axes)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_plan_travels(path: Path) -> None:
    plan = load_plan(path)
    text = plan_to_text(plan)
    assert plan_from_text(text) == plan
    assert len(text) <= 6 * 1024 and text.isprintable() and " " not in text
    assert json.loads(json.dumps(text)) == text


def large(bands: int, used: int, stay: float, stripes: int) -> Plan:
    """40 x 40 heads, a few kinds of which are common: in each band a share of them stays as it was in the band before,
    and some have columns of their own."""
    draw = random.Random(1)
    plain = [p for p in default_candidates() if not isinstance(p, ProfiledStripe)]
    patterns, weights = draw.sample(plain, used), [1 / (2 + n) for n in range(used)]

    def drawn() -> int:
        return draw.choices(range(used), weights)[0]

    tables = [[[drawn() for _ in range(40)] for _ in range(40)]]
    for _ in range(1, bands):
        tables.append([[n if draw.random() < stay else drawn() for n in row] for row in tables[-1]])
    cells = Cells(Tiling(TokenGrid(21, 45, 80), FLAT, 128, 64))
    for number in range(stripes):
        mass = torch.rand(512, generator=torch.Generator().manual_seed(number)) ** 4
        tables[number % bands][draw.randrange(40)][draw.randrange(40)] = len(patterns)
        patterns.append(cells.stripe(mass, STRIPE_SHARES[number % len(STRIPE_SHARES)]))
    edges = (*(1.0, 0.97, 0.93, 0.8)[:bands], 0.0)
    heads = [tuple(map(tuple, table)) for table in tables]
    made = tuple(Band(*edge, table) for edge, table in zip(itertools.pairwise(edges), heads, strict=True))
    return Plan("wan", 40, 40, 128, (21, 45, 80), tuple(patterns), made, "measured", PROVENANCE)


@pytest.mark.parametrize(
    ("bands", "used", "stay", "stripes"),
    [(1, 100, 0, 0), (2, 111, 0, 0), (4, 60, 0.6, 0), (4, 60, 0.6, 32), (3, 90, 0.5, 32)],
    ids=str,
)
def test_plans_of_large_models_are_small_enough(bands: int, used: int, stay: float, stripes: int) -> None:
    plan = large(bands, used, stay, stripes)
    text = plan_to_text(plan)
    assert plan_from_text(text) == plan
    assert len(text) <= 6 * 1024


def test_as_many_own_columns_as_a_search_gives_take_more() -> None:
    plan = large(4, 60, 0.6, MOST_STRIPES)
    text = plan_to_text(plan)
    assert plan_from_text(text) == plan
    assert len(text) <= 8 * 1024


@pytest.mark.parametrize("twist", ["twice", "out of order", "few", "many axes"])
def test_columns_that_are_no_set_of_cells_travel_as_they_are(twist: str) -> None:
    boxes = [(0.0, 0.1, 0.2, 0.3, at / 10, at / 10 + 0.05) for at in range(5)]
    columns = {
        "twice": [*boxes, boxes[-1]],
        "out of order": boxes[::-1],
        "few": boxes[:2],
        "many axes": [tuple(x / 64 for x in (n, n, n, n, n, n)) for n in range(17)],
    }[twist]
    plan = small_plan(patterns=(*small_plan().patterns[:-1], VerticalStripe(tuple(columns))))
    assert plan_from_text(plan_to_text(plan)) == plan


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
    "an older version": (text_of(content(), "1"), "version '1', this pack reads 2: ask for it again"),
    "a newer version": (text_of(content(), "33"), "version '33', this pack reads 2: update"),
    "no version": (text_of(content(), ""), "version '', this pack reads 2: update"),
    "a digit of another kind": (text_of(content(), "²"), "this pack reads 2: update"),
    "no base64": (text_of_packed("$$$$"), "holds no plan"),
    "no LZMA": (text_of_packed("_AAA"), "holds no plan"),
    "it ends too early": (
        text_of_packed(base64.urlsafe_b64encode(lzma.compress(content(), **LZMA)[:-9]).decode()),
        "holds no plan",
    ),
    "half a surrogate pair": ("sparse-vdit-plan:2:x:\ud800", "is damaged"),
    "empty": (text_of(b""), "it is empty"),
    "length past the end": (text_of(struct.pack("<I", 2**32 - 1) + b"{}"), "holds no plan"),
    "no JSON": (text_of(struct.pack("<I", 4) + b"oops"), "holds no plan"),
    "nested too deep": (text_of(struct.pack("<I", 200_000) + b"[" * 200_000), "holds no plan"),
    "no object": (text_of(struct.pack("<I", 2) + b"[]"), "holds no plan"),
    "no bands": (text_of(content(bands=3)), "holds no plan"),
    "sizes that are none": (text_of(content(layers="4")), "no sizes"),
    "negative sizes": (text_of(content(layers=-4, heads=-3)), "no sizes"),
    "huge sizes": (text_of(content(layers=10**6, heads=10**6)), "bytes of heads, expected"),
    "too few heads": (text_of(content(table=b"\1" * 23)), "23 bytes of heads, expected 24 for 2 bands of 4 x 3"),
    "heads given twice": (
        text_of(content(bands=[{"sigma_high": 1.0, "sigma_low": 0.0, "heads": []}], table=b"\1" * 12)),
        "given twice",
    ),
    "a pattern that is not there": (text_of(content(table=b"\x09" * 24)), "bands[0].heads[0][0]"),
    "no pattern in the first band": (text_of(content(table=b"\0" * 24)), "the first band has no pattern"),
    "columns of no stripe": (text_of(content(columns=b"\1")), "1 bytes of columns, expected those of 0 stripes"),
    "columns that are missing": (
        text_of(content(patterns=[{"kind": "vertical_stripe", "columns": None, "order": "flat"}] * 5,
                        axes=[[[0, 1]], [[0, 1]], [[0, 1]]])),
        "0 bytes of columns, expected those of 5 stripes of 1 boxes",
    ),
    "more boxes than memory": (
        text_of(content(patterns=[{"kind": "vertical_stripe", "columns": None, "order": "flat"}] * 5,
                        axes=[[[0, 1]] * 9000] * 3)),
        "of columns, expected those of 5 stripes of 729000000000 boxes",
    ),
    "bounds that are no pairs": (text_of(striped([[[1] * 90_000], [[0, 1]] * 64, [[0, 1]] * 64])), "pairs of numbers"),
    "two axes": (text_of(striped([[[0, 1]], [[0, 1]]])), "on three axes"),
    "more stripes than patterns": (text_of(striped([[[0, 1]]] * 3, b"\x80" * 3000, 3000)), "3000 stripes, expected"),
    "more columns than a stripe has": (
        text_of(striped([[[0, 1]] * 5, [[0, 1]] * 4, [[0, 1]] * 4], b"\xff" * 50)),
        "a stripe of 80 columns, expected at most 64",
    ),
    "axes that are none": (
        text_of(content(patterns=[{"kind": "vertical_stripe", "columns": None, "order": "flat"}] * 5, axes=7)),
        "holds no plan",
    ),
    "patterns that are none": (text_of(content(patterns=[3] * 5)), "holds no plan"),
    "a path": (text_of(content(path="/etc/passwd")), "path: is unknown"),
    "an unknown pattern": (text_of(content(patterns=[{"kind": "evil"}] * 5)), "patterns[0]"),
    "a newer plan": (text_of(content(version=9)), "newer than this pack reads"),
}


@pytest.mark.parametrize(("text", "says"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_plan_is_refused(text: str, says: str) -> None:
    with pytest.raises(PlanError) as error:
        plan_from_text(text)
    assert says in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("size", [MOST_BYTES + 1, 20 * MOST_BYTES])
def test_what_unpacks_to_too_much_is_never_unpacked_whole(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of(bytes(size))
    says = "unpacks to more than" if len(text) <= MOST_CHARACTERS else "characters are too many"
    with pytest.raises(PlanError, match=says):
        plan_from_text(text)


def test_a_large_plan_travels_too() -> None:
    assert plan_from_text(plan_to_text(large_plan())) == large_plan()
