"""Mutated plan files, texts and profiles: what comes of each is a plan or profile, or one clear sentence, within two
seconds of the process."""

from __future__ import annotations

import base64
import copy
import json
import random
import re
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_up_profiles import made_up, random_errors
from sample_plans import small_plan
from sparse_vdit.plans.plan import text as texts
from sparse_vdit.plans.plan.files import PlanError, load_plan, plan_to_json
from sparse_vdit.plans.plan.text import plan_from_text, plan_to_text
from sparse_vdit.plans.profile.profile_files import ProfileError, load_header, load_profile, profile_bytes
from sparse_vdit.plans.search.search import SearchError, search_budget

FEW, MANY = 300, 10_000
SECONDS, LONGEST = 2.0, 700  # of the process; characters of a message
PYTHON = re.compile(
    r"\w+(Error|Exception)\b|Traceback|NoneType|object is not|not supported|unhashable|__\w+__|positional|argument"
    r"|not iterable|subscript|<class|codec|overflow|too large to convert|Exceeds the limit"
)
VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**64, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "",
    "wan", "\u202e", "\ud800", "x" * 5000, [], {}, [[]], [None], [1, 2], {"kind": "dense"}, [[[[]]]], "\x00", "../../x",
)  # fmt: skip


def places(data: object, at: tuple = ()) -> Iterator[tuple]:
    """Paths of all values."""
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inside:
        yield (*at, key)
        yield from places(value, (*at, key))


def changed_values(draw: random.Random, text: str) -> str:
    """JSON with a few values replaced, left out, named anew or moved."""
    data = json.loads(text)
    for _ in range(draw.randint(1, 3)):
        *way, key = draw.choice(list(places(data)))
        parent = data
        for step in way:
            parent = parent[step]
        kind = draw.randrange(5)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[draw.choice(["", "grid", "x" * 300, "\u202e", key + "_"])] = parent.pop(key)
        elif kind == 2 and isinstance(parent, list):
            parent.extend(parent[:1] * draw.choice([1, 300, 2000]))
        elif kind == 3 and draw.random() < 0.2:
            parent[key] = json.loads(json.dumps(data))  # all of it within itself
        else:
            parent[key] = copy.deepcopy(draw.choice(VALUES))
        if not isinstance(data, (dict, list)) or not list(places(data)):
            break
    return json.dumps(data)


def changed_signs(draw: random.Random, content: bytes) -> bytes:
    """Bytes changed, left out, doubled or cut."""
    found = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        at = draw.randrange(len(found))
        kind = draw.randrange(5)
        if kind == 0:
            found[at] = draw.randrange(256)
        elif kind == 1:
            del found[at : at + draw.randint(1, 40)]
        elif kind == 2:
            found[at:at] = found[at : at + draw.randint(1, 40)]
        elif kind == 3:
            found[at:at] = draw.choice([b"[" * 3000, b"9" * 400, b'"', b"\xff", b"\x00", b"{", b"1e999", b"\n"])
        elif draw.random() < 0.2:
            del found[at:]
        if not found:
            break
    return bytes(found)


def plan_files(count: int) -> Iterator[bytes]:
    """Mutated plan files."""
    draw, content = random.Random(1), plan_to_json(small_plan())
    for number in range(count):
        if number % 2:
            yield changed_signs(draw, content.encode())
        else:
            yield changed_values(draw, content).encode(errors="surrogatepass")


def packed(content: bytes) -> str:
    """A text with this content and a checksum that fits."""
    inside = base64.urlsafe_b64encode(zlib.compress(content)).decode()
    return f"{texts.FORMAT}:{texts.VERSION}:{texts._checksum(inside)}:{inside}"


def plan_texts(count: int) -> Iterator[str]:
    """Mutated plan texts: those of mutated files, and mutated themselves."""
    draw, whole = random.Random(2), plan_to_text(small_plan())
    for number, content in enumerate(plan_files(count)):
        yield changed_signs(draw, whole.encode()).decode(errors="replace") if number % 4 == 3 else packed(content)


def profiles(count: int) -> Iterator[bytes]:
    """Mutated profile files: of their header, or of any byte."""
    draw, content = random.Random(3), profile_bytes(made_up(random_errors(5)))
    size = int.from_bytes(content[:8], "little")
    head, tensors = json.loads(content[8 : 8 + size]), content[8 + size :]
    for number in range(count):
        if number % 3 == 0:
            yield changed_signs(draw, content[: 8 + size]) + tensors
            continue
        about = changed_values(draw, head["__metadata__"]["profile"])
        new = {**head, "__metadata__": {"profile": about}}
        text = json.dumps(new) if number % 3 == 1 else changed_values(draw, json.dumps(head))
        raw = text.encode(errors="surrogatepass")
        yield len(raw).to_bytes(8, "little") + raw + tensors


def outcome(read: Callable[[], object]) -> str | None:
    """The error's sentence, None where there is none; fails where it is not a clear one, or took too long."""
    began = time.process_time()
    try:
        found = read()
    except (PlanError, ProfileError, SearchError) as error:
        found, message = None, str(error)
    else:
        message = None
    seconds = time.process_time() - began
    assert seconds < SECONDS, (seconds, message)
    if message is not None:
        assert "\n" not in message and 10 < len(message) <= LONGEST, message[:2000]
        assert not PYTHON.search(message), message
    assert found is not None or message
    return message


def count(default: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("count", [default, pytest.param(MANY, marks=pytest.mark.slow)])


def read_plan(path: Path) -> object:
    plan = load_plan(path)
    return plan, plan.pattern_densities()


@count(FEW)
def test_a_mutated_file_is_a_plan_or_one_sentence(count: int, tmp_path: Path) -> None:
    path, messages = tmp_path / "plan.json", []
    for content in plan_files(count):
        path.write_bytes(content)
        messages.append(outcome(lambda: read_plan(path)))
    assert all(message.count("plan.json") == 1 for message in messages if message)
    assert len({*messages}) > count // 20 and None in messages
    print(f"{count} files: {sum(map(bool, messages))} refused in {len({*messages})} ways")


@count(FEW)
def test_a_mutated_text_is_a_plan_or_one_sentence(count: int) -> None:
    messages = [outcome(lambda text=text: plan_from_text(text)) for text in plan_texts(count)]
    assert len({*messages}) > count // 20 and None in messages
    print(f"{count} texts: {sum(map(bool, messages))} refused in {len({*messages})} ways")


def searched(path: Path) -> object:
    load_header(path)
    return search_budget(load_profile(path), density=0.5)


@count(FEW)
def test_a_mutated_profile_is_searched_or_one_sentence(count: int, tmp_path: Path) -> None:
    path, messages = tmp_path / "profile.safetensors", []
    for content in profiles(count // 4):
        path.write_bytes(content)
        messages.append(outcome(lambda: searched(path)))
    assert len({*messages}) > count // 80
    print(f"{count // 4} profiles: {sum(map(bool, messages))} refused in {len({*messages})} ways")
