"""Measured speeds of attention, kept from run to run: in memory, and in a small JSON file that is not trusted."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

from ....plans.plan.writing import write_new

LOG = logging.getLogger("sparse_vdit")

FORMAT, VERSION = "sparse-vdit-speeds", 1
MOST_BYTES, MOST_PLACES, MOST_NAME = 1 << 20, 500, 500
MOST_MILLISECONDS = 1e7

Speeds = dict[str, dict[str, float]]
"""Place (device, model, grid and all else that speed hangs on, in words) -> lane -> milliseconds, or the error of an
inexact kernel. Lanes are names of `race.py`."""

_known: dict[Path | None, tuple[tuple[int, int] | None, Speeds]] = {}


def known_speeds(path: Path | None) -> Speeds:
    """What was measured so far, by the file as it is now: nothing once it was deleted. None keeps all in memory."""
    stamp = _stamp(path)
    if path not in _known or _known[path][0] != stamp:
        _known[path] = stamp, {} if path is None else read_speeds(path)
    return _known[path][1]


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """What changes with a file, None where there is none."""
    try:
        stat = None if path is None else path.stat()
    except OSError:
        stat = None
    return None if stat is None else (stat.st_mtime_ns, stat.st_size)


def keep_speeds(path: Path | None, place: str, lanes: dict[str, float]) -> None:
    """Add measurements of a place, in memory and in the file; a file that cannot be written is only logged."""
    speeds = dict(known_speeds(path))  # with what another ComfyUI may have added meanwhile
    before = speeds.pop(place, {})
    speeds[place] = {**before, **lanes}  # the newest last
    if speeds[place] == before:
        return
    newest = dict(list(speeds.items())[-MOST_PLACES:])
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {"format": FORMAT, "version": VERSION, "speeds": newest}
            write_new(path, json.dumps(content, indent=1).encode(), overwrite=True)
        except OSError as error:
            LOG.warning("Sparse-vDiT: measured speeds could not be kept in %s: %s", path, error)
    _known[path] = _stamp(path), newest


def read_speeds(path: Path) -> Speeds:
    """What a file holds; nothing, with a line in the log, of one that is none of ours or was damaged."""
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        LOG.warning("Sparse-vDiT: measured speeds in %s could not be read: %s", path, error)
        return {}
    try:
        content = json.loads(text) if len(text) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        LOG.warning("Sparse-vDiT: %s holds no measured speeds, they are measured anew", path)
        return {}
    places = content.get("speeds")
    found = {}
    for place, lanes in list(places.items() if isinstance(places, dict) else ())[-MOST_PLACES:]:
        if isinstance(lanes, dict) and len(place) <= MOST_NAME:
            found[place] = {name: float(value) for name, value in lanes.items() if _plausible(name, value)}
    return found


def _plausible(name: str, value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and len(name) <= MOST_NAME and 0 <= value <= MOST_MILLISECONDS and math.isfinite(value)
