"""Profiles as safetensors files: the measures as tensors, the header as JSON in the file's metadata."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, safe_open, save

from ...kernels.patterns import Pattern
from ..plan.checks import MAX_ENTRIES, check_number, check_whole, cut, show
from ..plan.plan import (
    MAX_BANDS,
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_PATTERNS,
    Provenance,
    check_family,
    check_grid,
    check_provenance,
)
from ..plan.writing import write_new
from .columns import candidate_from_dict
from .profile import FLOWS, MEASURES, Profile, ProfileHeader

FORMAT, VERSION = "sparse-vdit-profile", 5
MAX_PROFILE_BYTES = 128 << 20  # twice that of 40 layers of 40 heads in four bands
MAX_METADATA_BYTES = 4 << 20
TENSORS = {*MEASURES, "votes", "samples", "columns"}
"""Of a profile; `maps` may be there too."""
WHOLE = {"layers": MAX_LAYERS, "heads": MAX_HEADS, "head_dim": MAX_HEAD_DIM}
"""Largest whole numbers of a header."""
MIN_TILE, MAX_TILE = 4, 4096
ORIGIN = ("model", "parameters", "prompts", "versions", "date")


class ProfileError(ValueError):
    """A profile file that cannot be used; the message names the file and the field."""


def save_profile(profile: Profile, path: str | Path, overwrite: bool = False) -> Path:
    """Write a profile.

    Raises:
        FileExistsError: the file exists with other content and overwrite is False; nothing was written.
    """
    return write_new(Path(path), profile_bytes(profile), overwrite)


def profile_bytes(profile: Profile) -> bytes:
    """What a profile's file holds; equal profiles give equal bytes."""
    header = dataclasses.asdict(dataclasses.replace(profile.header, candidates=()))
    header["candidates"] = [pattern.to_dict() for pattern in profile.header.candidates]
    # one entry only: safetensors writes several in no fixed order, and equal profiles shall be equal files
    text = json.dumps({"format": FORMAT, "version": VERSION, "header": header}, sort_keys=True)
    tensors = {**profile.measures, "votes": profile.votes, "samples": profile.samples}
    tensors |= {"columns": profile.columns}
    if profile.maps is not None:  # pictures need no more digits; files without them are read as before
        tensors["maps"] = profile.maps.to(torch.float16)
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"profile": text})


def load_profile(path: str | Path) -> Profile:
    """Read a profile; a file of unknown origin is checked before use.

    Raises:
        ProfileError: no readable profile; the message says what is wrong with which field.
        OSError: the file cannot be opened, and may well be a profile.
    """
    path = Path(path)
    header = load_header(path)
    try:
        tensors = load(path.read_bytes())  # mapped, Windows would not let the file be renewed
    except (SafetensorError, KeyError) as error:  # a dtype that torch does not have is a key
        raise _unreadable(path) from error
    try:
        measures = {name: tensors[name].to(torch.float64) for name in MEASURES}
        votes, samples = tensors["votes"].to(torch.float64), tensors["samples"].to(torch.int64)
        columns = tensors["columns"].to(torch.float32)
        maps = tensors["maps"].to(torch.float32) if "maps" in tensors else None
        return Profile(header, measures, votes, samples, columns, maps)
    except ValueError as error:
        raise ProfileError(f"{path.name}: {error}") from None


def load_header(path: str | Path) -> ProfileHeader:
    """Read what was measured, and not the measures, which are much larger.

    Raises:
        ProfileError, OSError: as `load_profile`.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ProfileError(f"{path.name}: there is no such file")
        if path.stat().st_size > MAX_PROFILE_BYTES:
            raise ProfileError(f"{path.name}: {path.stat().st_size} bytes are too many for a profile")
        _check_metadata_size(path)
        with safe_open(path, "pt") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
    except (SafetensorError, KeyError) as error:
        raise _unreadable(path) from error
    if not TENSORS <= names <= {*TENSORS, "maps"}:
        wrong = sorted(TENSORS - names) or sorted(names - TENSORS)
        raise ProfileError(f"{path.name}: {'lacks' if TENSORS - names else 'has'} the tensor {wrong[0][:80]!r}")
    about = _about(path.name, metadata.get("profile"))
    try:
        return _header(about.get("header"))
    except ValueError as error:
        raise ProfileError(f"{path.name}: header: {cut(str(error), 500)}") from None


def _check_metadata_size(path: Path) -> None:
    """Raise ProfileError where a file's head, which is parsed whole, is larger than that of any profile."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_METADATA_BYTES:
        raise ProfileError(f"{path.name}: metadata of {size} bytes, expected at most {MAX_METADATA_BYTES}")


def _unreadable(path: Path) -> ProfileError:
    return ProfileError(f"{path.name}: cannot be read as safetensors, it is damaged or no profile")


def _about(name: str, text: str | None) -> dict:
    try:
        about = json.loads(text or "")
    except (ValueError, RecursionError):
        raise ProfileError(f"{name}: its metadata has no readable entry 'profile', profile again") from None
    found = (about.get("format"), about.get("version")) if isinstance(about, dict) else about
    if found != (FORMAT, VERSION):
        wanted = FORMAT, VERSION
        raise ProfileError(f"{name}: format and version are {show(found)}, expected {wanted!r}: profile again")
    return about


def _header(data: object) -> ProfileHeader:
    names = {field.name for field in dataclasses.fields(ProfileHeader)}
    if not isinstance(data, dict) or data.keys() != names:
        odd = sorted(names.symmetric_difference(data))[:3] if isinstance(data, dict) else data
        raise ValueError(f"missing or unknown fields: {show(odd)}")
    for name, most in WHOLE.items():
        check_whole(name, data[name], 1, most)
    check_whole("query_tile", data["query_tile"], MIN_TILE, MAX_TILE)
    check_whole("key_tile", data["key_tile"], MIN_TILE, data["query_tile"])
    if data["flow"] not in FLOWS:
        raise ValueError(f"flow: {show(data['flow'])}, expected one of {', '.join(FLOWS)}")
    check_family(data["family"])
    grid = tuple(_list("grid", data["grid"], 3, 3))
    check_grid(grid)
    patterns = _list("candidates", data["candidates"], 1, MAX_PATTERNS)
    candidates = tuple(_candidate(number, pattern) for number, pattern in enumerate(patterns))
    densities = tuple(_list("densities", data["densities"], len(candidates), len(candidates)))
    bands = [_list(f"bands[{n}]", band, 2, 2) for n, band in enumerate(_list("bands", data["bands"], 1, MAX_BANDS))]
    for number in (*densities, *itertools.chain(*bands)):
        check_number("densities and bands", number)
    if not all(0 <= value <= 1 for value in densities):
        raise ValueError(f"densities: {show(densities)}, expected numbers from 0 to 1")
    if candidates[0].kind != "dense":
        raise ValueError("candidates: expected dense first")
    if not all(0 <= low < high for high, low in bands):
        raise ValueError(f"bands: {show(bands)}, expected pairs of a higher and a lower noise level")
    prompts = tuple(_list("prompts", data["prompts"], 0, MAX_ENTRIES))
    origin = {**{name: data[name] for name in ORIGIN}, "prompts": prompts}
    check_provenance("origin", Provenance(**origin))  # which the plans that are searched from it have
    read = {"candidates": candidates, "densities": tuple(map(float, densities)), "grid": grid}
    return ProfileHeader(**{**data, **origin, **read, "bands": tuple((float(high), float(low)) for high, low in bands)})


def _candidate(number: int, data: object) -> Pattern:
    try:
        return candidate_from_dict(data)
    except ValueError as error:
        raise ValueError(f"candidates[{number}]: {cut(str(error), 300)}") from None


def _list(path: str, value: object, least: int, most: int) -> list:
    if not isinstance(value, list) or not least <= len(value) <= most:
        count = f"{least}" if least == most else f"{least} to {most}"
        raise ValueError(f"{path}: {show(value)}, expected a list of {count} entries")
    return value
