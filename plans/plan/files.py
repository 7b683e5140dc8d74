"""Plan files: strict reading, and writing that never overwrites by accident.

Plans travel with workflows, so a file is taken for hostile: JSON only, everything checked before use, and no text in
it is ever used as a path.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from ...kernels.patterns import Pattern, pattern_from_dict
from .card import Card
from .checks import cut, show
from .plan import Band, Plan, Provenance
from .writing import write_new

FORMAT, VERSION = "sparse-vdit-plan", 2
WITHOUT_CARD = 1  # what a plan without a card is written as
MAX_PLAN_BYTES = 4_000_000
_LONGEST_INTEGER = 20  # digits; longer ones are read as floats, which are refused wherever they can appear

_FIELDS = ("family", "layers", "heads", "head_dim", "grid", "grade")
_LISTED = ("patterns", "bands", "provenance")
_BAND = ("sigma_high", "sigma_low", "heads")
_CARD = ("model", "measured", "not_measured", "least_density", "densities", "kept_dense")
_PROVENANCE = ("model", "rule", "parameters", "prompts", "versions", "date", "source", "notes")


class PlanError(ValueError):
    """A plan that cannot be used. The message begins with the JSON path of the field, or the name of the plan."""


class _Object(dict):
    """A JSON object that remembers a key which was given twice."""

    twice: str | None = None


def plan_to_json(plan: Plan) -> str:
    """The plan as JSON text: stable order of keys, one line for each pattern and each layer's heads."""
    data = {
        "format": FORMAT,
        "version": WITHOUT_CARD if plan.card is None else VERSION,
        **{name: getattr(plan, name) for name in _FIELDS},
        "patterns": [pattern.to_dict() for pattern in plan.patterns],
        "bands": [{name: getattr(band, name) for name in _BAND} for band in plan.bands],
        "provenance": {name: getattr(plan.provenance, name) for name in _PROVENANCE},
    }
    for name in ("parameters", "versions"):  # whose order is that of how the plan was made
        data["provenance"][name] = dict(sorted(data["provenance"][name].items()))
    if plan.card is not None:
        data["card"] = {name: getattr(plan.card, name) for name in _CARD}
    return _layout(data) + "\n"


def plan_from_json(text: str, name: str = "plan") -> Plan:
    """Plan from JSON text; `name` says in errors which plan it is.

    Raises:
        PlanError: anything but a plan that this version reads.
    """
    _check_size(name, len(text))
    try:
        data = _parse(text)
        if isinstance(data, dict):
            return _read_plan(data)
    except json.JSONDecodeError as error:
        raise PlanError(f"{name}: is not JSON and perhaps damaged, get it again or delete it; {error}") from None
    except RecursionError:
        raise PlanError(f"{name}: lists are nested too deep, this is no plan") from None
    except ValueError as error:  # begins with the path of the field, here as in what Plan itself finds
        raise PlanError(f"{error} (in {name})") from None
    raise PlanError(f"{name}: is a {type(data).__name__}, expected a JSON object")


def load_plan(path: str | os.PathLike) -> Plan:
    """Plan from a file.

    Raises:
        PlanError: no plan that this version reads.
        OSError: the file is not there or cannot be read.
    """
    path = Path(path)
    with _open_regular(path) as file:
        _check_size(path.name, os.fstat(file.fileno()).st_size)
        content = file.read(MAX_PLAN_BYTES + 1)
    _check_size(path.name, len(content))
    try:
        text = content.decode("utf-8-sig")  # editors on Windows put a mark at the start
    except UnicodeDecodeError as error:
        raise PlanError(f"{path.name}: byte {error.start} is not UTF-8 text, a plan is a JSON file") from None
    return plan_from_json(text, path.name)


def save_plan(plan: Plan, path: str | os.PathLike, overwrite: bool = False) -> Path:
    """Write a plan to a file, whole or not at all; a file that already has this content is left alone.

    Raises:
        FileExistsError: the file has other content and `overwrite` is False.
        PlanError: the plan could not be read back; nothing is written.
        OSError: the folder is not there or cannot be written.
    """
    return write_new(Path(path), plan_bytes(plan), overwrite)


def plan_bytes(plan: Plan) -> bytes:
    """What a plan's file holds.

    Raises:
        PlanError: the plan could not be read back.
    """
    text = plan_to_json(plan)
    plan_from_json(text)
    return text.encode()


def _open_regular(path: Path) -> BinaryIO:
    """Open for reading, but no folder, pipe or device: those could block or never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise PlanError(f"{path.name}: is no regular file, a plan is a JSON file")
    return open(path, "rb")


def _check_size(name: str, size: int) -> None:
    if size > MAX_PLAN_BYTES:
        raise PlanError(f"{name}: {size} bytes are too many for a plan, expected at most {MAX_PLAN_BYTES}")


def _layout(value: object, indent: str = "") -> str:
    """JSON with what has no nested lists or objects on one line, so that a table reads as a table."""
    if isinstance(value, dict):
        keys, inside, (start, end) = [f"{_dumps(key)}: " for key in value], list(value.values()), "{}"
    else:
        inside, (start, end) = list(value) if isinstance(value, (list, tuple)) else [], "[]"
        keys = [""] * len(inside)
    if not any(isinstance(item, (dict, list, tuple)) for item in inside):
        return _dumps(value)
    deeper = indent + "  "
    lines = ",\n".join(deeper + key + _layout(item, deeper) for key, item in zip(keys, inside, strict=True))
    return f"{start}\n{lines}\n{indent}{end}"


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _parse(text: str) -> object:
    def integer(digits: str) -> int | float:
        return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)

    def pairs(items: list[tuple[str, object]]) -> _Object:
        found = _Object()
        for key, value in items:
            if key in found:
                found.twice = key
            found[key] = value
        return found

    return json.loads(text, parse_int=integer, object_pairs_hook=pairs)


def _read_plan(data: dict) -> Plan:
    if data.get("format") != FORMAT:
        raise PlanError(f"format: {show(data.get('format'))}, expected {FORMAT!r}; this is no plan of this pack")
    _check_version(data.get("version"))  # before the keys: a newer version may have others
    card = () if data["version"] == WITHOUT_CARD else ("card",)
    _object("", data, ("format", "version", *_FIELDS, *_LISTED, *card))
    plain = {field: data[field] for field in _FIELDS if field != "grid"}
    return Plan(
        **plain,
        grid=tuple(_list("grid", data["grid"])),
        patterns=tuple(_pattern(f"patterns[{n}]", item) for n, item in enumerate(_list("patterns", data["patterns"]))),
        bands=tuple(_band(f"bands[{n}]", item) for n, item in enumerate(_list("bands", data["bands"]))),
        provenance=_provenance("provenance", data["provenance"]),
        card=_card("card", data["card"]) if card else None,
    )


def _check_version(version: object) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise PlanError(f"version: {show(version)}, expected {WITHOUT_CARD} or {VERSION}")
    if version > VERSION:
        raise PlanError(f"version: {version} is newer than this pack reads ({VERSION}), update the pack")


def _pattern(path: str, data: object) -> Pattern:
    if isinstance(data, _Object):
        _check_twice(path, data)
    try:
        return pattern_from_dict(data)
    except ValueError as error:
        raise PlanError(f"{path}: {cut(str(error), 300)}") from None


def _band(path: str, value: object) -> Band:
    data = _object(path, value, _BAND)
    rows = _list(f"{path}.heads", data["heads"])
    heads = tuple(tuple(_list(f"{path}.heads[{n}]", row)) for n, row in enumerate(rows))
    return Band(data["sigma_high"], data["sigma_low"], heads)


def _provenance(path: str, value: object) -> Provenance:
    data = _object(path, value, _PROVENANCE)
    values: dict = {**data, "prompts": tuple(_list(f"{path}.prompts", data["prompts"]))}
    for name in ("parameters", "versions"):
        if isinstance(data[name], _Object):  # anything else is refused by Plan, with its path
            _check_twice(f"{path}.{name}", data[name])
            values[name] = dict(data[name])
    return Provenance(**values)


def _card(path: str, value: object) -> Card:
    data = _object(path, value, _CARD)
    places = _list(f"{path}.kept_dense", data["kept_dense"])
    kept = [tuple(_list(f"{path}.kept_dense[{n}]", place)) for n, place in enumerate(places)]
    densities = tuple(_list(f"{path}.densities", data["densities"]))
    values: dict = {**data, "densities": densities, "kept_dense": tuple(kept)}
    return Card(**values)


def _list(path: str, value: object) -> list:
    if not isinstance(value, list):
        raise PlanError(f"{path}: {show(value)}, expected a list")
    return value


def _object(path: str, data: object, names: Collection[str]) -> _Object:
    """A JSON object that has exactly these keys, each once; PlanError for anything else."""
    if not isinstance(data, _Object):
        raise PlanError(f"{path}: {show(data)}, expected an object with {', '.join(names)}")
    _check_twice(path, data)
    for key in data:
        if key not in names:
            raise PlanError(f"{_join(path, key)}: is unknown, expected {', '.join(names)}")
    for key in names:
        if key not in data:
            raise PlanError(f"{_join(path, key)}: is missing")
    return data


def _check_twice(path: str, data: _Object) -> None:
    if data.twice is not None:
        raise PlanError(f"{_join(path, data.twice)}: is given twice, expected it once")


def _join(path: str, key: str) -> str:
    key = key if key.isidentifier() and len(key) <= 40 else show(key)
    return f"{path}.{key}" if path else key
