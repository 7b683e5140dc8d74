"""Checks of what stands in a plan: each names the field, as in the plan's JSON form, and the value."""

from __future__ import annotations

import unicodedata

MAX_NAME, MAX_TEXT, MAX_ENTRIES = 200, 10_000, 256  # characters of a name, of a text; entries of lists of them
MAX_NUMBER = 1e300


def cut(text: str, characters: int = 80) -> str:
    """A text of at most so many characters, with dots where the rest was."""
    return text if len(text) <= characters else f"{text[: characters - 3]}..."


def show(value: object) -> str:
    """A value for a message, cut where it is long."""
    return cut(repr(value))


def check_whole(path: str, value: object, least: int, most: int) -> None:
    """Raise ValueError, naming the field, unless a value is a whole number in least..most."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{path}: {show(value)} is out of range, expected a whole number from {least} to {most}")


def check_number(path: str, value: object) -> None:
    """Raise ValueError, naming the field, unless a value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_NUMBER:
        raise ValueError(f"{path}: {show(value)}, expected a finite number")


def check_text(path: str, value: object, most: int = MAX_TEXT) -> None:
    """Raise ValueError, naming the field, unless a value is a text of at most so many characters."""
    if not isinstance(value, str):
        raise ValueError(f"{path}: {show(value)} is no text")
    if len(value) > most:
        raise ValueError(f"{path}: {len(value)} characters are too many, expected at most {most}")
    # half a surrogate pair cannot be written as UTF-8, and control characters would garble logs
    if any(unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t" for sign in value):
        raise ValueError(f"{path}: {show(value)} has a control character or half a surrogate pair, remove it")


def check_name(path: str, value: object) -> None:
    """As `check_text`, of a short one."""
    check_text(path, value, MAX_NAME)


def check_items(path: str, value: object, kind: type, least: int, most: int) -> None:
    """Raise ValueError, naming the field, unless a value is a tuple of so many entries of a kind."""
    if not isinstance(value, tuple) or not least <= len(value) <= most:
        given = f"{len(value)} entries" if isinstance(value, (tuple, list)) else show(value)
        count = f"{least}" if least == most else f"{least} to {most}"
        raise ValueError(f"{path}: {given}, expected a list of {count} entries")
    for number, item in enumerate(value):
        if not isinstance(item, kind):
            raise ValueError(f"{path}[{number}]: {show(item)} is no {kind.__name__}")
