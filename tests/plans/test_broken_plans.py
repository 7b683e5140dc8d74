"""Broken and hostile plan files: each is refused with the field that is wrong, and nothing is written."""

import json
import os

import pytest
from sample_plans import listing, small_plan
from sparse_vdit.plans.plan.files import PlanError, load_plan, plan_from_json, plan_to_json


def at(*keys_and_value):
    """Change that sets a field, given as keys and the new value."""
    *keys, last, value = keys_and_value

    def change(data):
        for key in keys:
            data = data[key]
        data[last] = value

    return change


def without(*keys):
    def change(data):
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return change


def many_patterns(grid, count):
    """Change that would make any use of the plan take minutes."""

    def change(data):
        data["grid"] = list(grid)
        data["patterns"] = [*data["patterns"], *[{"kind": "dense", "order": "spatial"}] * count][:count]

    return change


H = ("bands", 0, "heads")
# what is done to a good plan, the field that the message must begin with, and a part of the reason
BROKEN = [
    (at("format", "other"), "format", "expected 'sparse-vdit-plan'"),
    (without("format"), "format", "None"),
    (at("version", 3), "version", "newer than this pack reads (2), update the pack"),
    (at("version", True), "version", "expected 1"),
    (at("version", 0), "version", "expected 1"),
    (at("version", 1.0), "version", "expected 1"),
    (without("grade"), "grade", "is missing"),
    (without("bands"), "bands", "is missing"),
    (at("path", "/etc/passwd"), "path", "is unknown"),
    (at("family", ""), "family", "expected 1 to 40"),
    (at("family", 3), "family", "expected 1 to 40"),
    (at("family", "x" * 201), "family", "expected 1 to 40"),
    (at("family", "w\u0000an"), "family", "expected 1 to 40"),
    (at("family", "w\ud800an"), "family", "expected 1 to 40"),
    (at("layers", 0), "layers", "whole number from 1 to 512"),
    (at("layers", 513), "layers", "513"),
    (at("layers", 4.0), "layers", "4.0"),
    (at("layers", "4"), "layers", "'4'"),
    (at("layers", 5), "bands[0].heads", "4 entries"),
    (at("heads", 257), "heads", "1 to 256"),
    (at("heads", True), "heads", "True"),
    (at("heads", 4), "bands[0].heads[0]", "3 entries, expected one for each of 4 heads"),
    (at("head_dim", -1), "head_dim", "-1"),
    (at("head_dim", 10**30), "head_dim", "1e+30"),
    (at("grid", [5, 11]), "grid", "three numbers"),
    (at("grid", 330), "grid", "expected a list"),
    (at("grid", {"t": 5}), "grid", "expected a list"),
    (at("grid", [5, 0, 6]), "grid[1]", "0 is out of range"),
    (at("grid", [5, 11, 6.5]), "grid[2]", "6.5"),
    (at("grid", [2000, 2000, 2000]), "grid", "8000000000 tokens"),
    (at("grade", "best"), "grade", "'best' is unknown, expected one of measured, prior, calibrate"),
    (at("grade", ["prior"]), "grade", "['prior'] is unknown"),
    (at("patterns", []), "patterns", "0 entries"),
    (at("patterns", {}), "patterns", "expected a list"),
    (at("patterns", [{"kind": "dense", "order": "spatial"}] * 1025), "patterns", "1025 entries"),
    (many_patterns((60, 72, 80), 90), "patterns", "90 patterns are too many for 345600 tokens, use fewer patterns"),
    (at("patterns", 1, "dense"), "patterns[1]", "'dense' is no pattern"),
    (at("patterns", 1, "kind", "magic"), "patterns[1]", "kind is 'magic'"),
    (at("patterns", 2, "frames", -1), "patterns[2]", "frames is -1"),
    (at("patterns", 2, "frames", True), "patterns[2]", "frames is True"),
    (at("patterns", 2, "extra", 1), "patterns[2]", "no parameter 'extra'"),
    (without("patterns", 2, "width"), "patterns[2]", "lacks its parameter 'width'"),
    (at("patterns", 3, "height", float("nan")), "patterns[3]", "height is nan"),
    (at("patterns", 3, "height", 1.5), "patterns[3]", "height is 1.5"),
    (at("patterns", 4, "columns", [[0, 0, 0, 1, 0]]), "patterns[4]", "columns[0]"),
    (at("bands", []), "bands", "0 entries"),
    (at("bands", 1, []), "bands[1]", "expected an object with sigma_high"),
    (without("bands", 1, "sigma_low"), "bands[1].sigma_low", "is missing"),
    (at("bands", 1, "step", 3), "bands[1].step", "is unknown"),
    (at("bands", 0, "sigma_high", float("inf")), "bands[0].sigma_high", "inf, expected a finite number"),
    (at("bands", 0, "sigma_high", None), "bands[0].sigma_high", "None"),
    (at("bands", 0, "sigma_high", True), "bands[0].sigma_high", "True"),
    (at("bands", 1, "sigma_low", float("nan")), "bands[1].sigma_low", "nan"),
    (at("bands", 1, "sigma_low", -0.1), "bands[1].sigma_low", "-0.1 is below 0"),
    (at("bands", 0, "sigma_low", 1.0), "bands[0].sigma_low", "not below sigma_high"),
    (at("bands", 1, "sigma_high", 0.6), "bands[1].sigma_high", "0.6 is above 0.5"),
    (lambda data: data["bands"].reverse(), "bands[1].sigma_high", "falling order"),
    (at(*H, None), "bands[0].heads", "expected a list"),
    (at(*H, 1, "012"), "bands[0].heads[1]", "expected a list"),
    (at(*H, 3, [0, 1]), "bands[0].heads[3]", "2 entries, expected one for each of 3"),
    (at(*H, 3, 2, 17), "bands[0].heads[3][2]", "17 is no number of a pattern, there are 5 (0 to 4)"),
    (at(*H, 3, 2, -1), "bands[0].heads[3][2]", "-1 is no number of a pattern"),
    (at(*H, 3, 2, 5), "bands[0].heads[3][2]", "5 is no number of a pattern"),
    (at(*H, 3, 2, 1.0), "bands[0].heads[3][2]", "1.0 is no number of a pattern"),
    (at(*H, 3, 2, False), "bands[0].heads[3][2]", "False is no number of a pattern"),
    (at(*H, 3, 2, [1]), "bands[0].heads[3][2]", "[1] is no number of a pattern"),
    (at("provenance", None), "provenance", "expected an object with model"),
    (without("provenance", "date"), "provenance.date", "is missing"),
    (at("provenance", "model", 1), "provenance.model", "1 is no text"),
    (at("provenance", "notes", "x" * 10_001), "provenance.notes", "10001 characters are too many"),
    (at("provenance", "prompts", "a cat"), "provenance.prompts", "expected a list"),
    (at("provenance", "prompts", [""] * 257), "provenance.prompts", "257 entries"),
    (at("provenance", "prompts", ["a", None]), "provenance.prompts[1]", "None is no str"),
    (at("provenance", "versions", []), "provenance.versions", "expected a table"),
    (at("provenance", "versions", "torch", 2), "provenance.versions.torch", "2 is no text"),
    (at("provenance", "parameters", "rows", None), "provenance.parameters.rows", "None"),
    (at("provenance", "parameters", "rows", True), "provenance.parameters.rows", "True"),
    (at("provenance", "parameters", "rows", float("-inf")), "provenance.parameters.rows", "-inf"),
    (at("provenance", "parameters", {str(n): n for n in range(257)}), "provenance.parameters", "257 entries"),
]


@pytest.mark.parametrize("change, field, reason", BROKEN, ids=[f"{n}-{case[1]}" for n, case in enumerate(BROKEN)])
def test_broken_plan_is_refused_by_field(change, field, reason, tmp_path):
    data = json.loads(plan_to_json(small_plan()))
    change(data)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(data))
    before = listing(tmp_path)
    with pytest.raises(PlanError) as error:
        load_plan(path)
    message = str(error.value)
    assert message.split(": ")[0] == field
    assert reason in message
    assert message.endswith("(in broken.json)") and len(message) < 500
    assert listing(tmp_path) == before


GOOD = plan_to_json(small_plan())
BROKEN_TEXTS = [
    ("nothing", "", "plan", "is not JSON"),
    ("no JSON", "torch.load(...)", "plan", "is not JSON"),
    ("cut off", GOOD[:300], "plan", "is not JSON"),
    ("two plans", GOOD + GOOD, "plan", "is not JSON"),
    ("comment", "// a plan\n" + GOOD, "plan", "is not JSON"),
    ("list", f"[{GOOD}]", "plan", "is a list, expected a JSON object"),
    ("null", "null", "plan", "is a NoneType"),
    ("bomb of lists", "[" * 200_000, "plan", "nested too deep"),
    ("bomb of objects", '{"a":' * 200_000, "plan", "nested too deep"),
    ("bomb in a field", GOOD.replace('"wan"', "[" * 900 + "]" * 900), None, ""),
    ("bomb in a pattern", GOOD.replace('"frames": 1', '"frames": ' + "[" * 900 + "]" * 900), None, ""),
    ("key twice", GOOD.replace('"layers": 4', '"layers": 4, "layers": 5'), "layers", "is given twice"),
    ("version twice", GOOD.replace('"version": 1', '"version": 9, "version": 1'), "version", "is given twice"),
    ("pattern's key twice", GOOD.replace('"frames": 1', '"frames": 2, "frames": 1'), "patterns[2].frames", "twice"),
    (
        "band's key twice",
        GOOD.replace('"sigma_low": 0.0', '"sigma_low": 0.1, "sigma_low": 0.0'),
        "bands[1].sigma_low",
        "",
    ),
    ("parameter twice", GOOD.replace('"rows": 256', '"rows": 1, "rows": 256'), "provenance.parameters.rows", "twice"),
    (
        "version's key twice",
        GOOD.replace('"torch": "2.9"', '"torch": "", "torch": "2"'),
        "provenance.versions.torch",
        "",
    ),
    ("overflow", GOOD.replace('"sigma_high": 1.0', '"sigma_high": 1e999'), "bands[0].sigma_high", "inf"),
    ("long number", GOOD.replace('"layers": 4', '"layers": ' + "9" * 100_000), "layers", "inf"),
    ("newer with other keys", '{"format": "sparse-vdit-plan", "version": 7, "new": 1}', "version", "update the pack"),
    ("long key", GOOD.replace('"family"', '"' + "k" * 5000 + '"'), None, "is unknown"),
]


@pytest.mark.parametrize("text, field, reason", [case[1:] for case in BROKEN_TEXTS], ids=[c[0] for c in BROKEN_TEXTS])
def test_broken_text_is_refused(text, field, reason):
    assert text != GOOD
    with pytest.raises(PlanError) as error:
        plan_from_json(text)
    message = str(error.value)
    assert field is None or message.split(": ")[0] == field
    assert reason in message and len(message) < 500


@pytest.mark.parametrize(
    "content, reason",
    [
        (GOOD.encode("utf-16"), "not UTF-8"),
        ('{"family": "wän"}'.encode("latin-1"), "not UTF-8"),
        (b"\x80\x02}q\x00.", "not UTF-8"),  # a pickle
        (b" " * 4_000_001, "4000001 bytes are too many for a plan, expected at most 4000000"),
        (b"PK\x03\x04", "is not JSON"),
        (b"", "is not JSON"),
    ],
    ids=["UTF-16", "Latin-1", "pickle", "too large", "zip", "empty"],
)
def test_files_that_are_no_text_are_refused(content, reason, tmp_path):
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=r"^p\.json: ") as error:
        load_plan(path)
    assert reason in str(error.value)


def test_too_large_files_are_not_read(tmp_path):
    path = tmp_path / "p.json"
    with open(path, "wb") as file:
        file.truncate(2**40)  # a sparse file: reading it would fill the memory
    with pytest.raises(PlanError, match="too many"):
        load_plan(path)


def test_folders_and_pipes_are_refused(tmp_path):
    with pytest.raises(PlanError, match="no regular file"):
        load_plan(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(PlanError, match="no regular file"):  # opening it would wait for ever
            load_plan(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        load_plan(tmp_path / "none.json")


@pytest.mark.parametrize("family", ["Wan", "a b", "<b>wan</b>", "x" * 41, "w\u00e4n", "wan\n"])
def test_a_family_is_a_plain_word(family: str) -> None:
    with pytest.raises(ValueError, match=r"family: .*, expected 1 to 40 of the signs"):
        small_plan(family=family)
