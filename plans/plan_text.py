"""A plan as one line of text, short enough to travel in a widget of a workflow.

    sparse-vdit-plan:1:<first 12 hex digits of SHA-256 of what follows>:<base64 of zlib of the plan>

What is packed is the plan's JSON without the tables of heads, its length before it, and the tables behind it with a
byte, or two, for each head. It is hostile until it is read: its size is bounded before and while it is unpacked, and
what comes out is checked as a file is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
import zlib

import numpy as np

from .files import MOST_BYTES, PlanError, plan_from_json, plan_to_json
from .plan import Plan

FORMAT, VERSION = "sparse-vdit-plan", 1
MOST_CHARACTERS = 200_000  # of the text; a plan of 40 x 40 heads takes some thousand
_LENGTH = struct.Struct("<I")
_WIDE = 256  # patterns, beyond which a head takes two bytes
_CHECKED = 12  # hex digits


def plan_to_text(plan: Plan) -> str:
    """The plan as text, without spaces or line breaks.

    Raises:
        PlanError: the plan could not be read back.
    """
    data = json.loads(plan_to_json(plan))
    tables = [band.pop("heads") for band in data["bands"]]
    header = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    heads = np.array(tables, dtype=_head_type(len(plan.patterns))).tobytes()
    packed = base64.urlsafe_b64encode(zlib.compress(_LENGTH.pack(len(header)) + header + heads, 9)).decode()
    text = f"{FORMAT}:{VERSION}:{_checksum(packed)}:{packed}"
    plan_from_text(text)
    return text


def plan_from_text(text: str, name: str = "plan text") -> Plan:
    """Plan from its text; spaces and line breaks that mail or a chat has put in do not matter.

    Raises:
        PlanError: anything but a plan's whole text of this version; the message begins with `name` or the JSON path of
            a field.
    """
    if len(text) > MOST_CHARACTERS:
        raise PlanError(f"{name}: {len(text)} characters are too many, expected at most {MOST_CHARACTERS}")
    parts = "".join(text.split()).split(":")
    if len(parts) != 4 or parts[0] != FORMAT:
        raise PlanError(f"{name}: does not begin with {FORMAT}:{VERSION}: and is no plan, copy the whole text")
    _, version, checksum, packed = parts
    if version != str(VERSION):
        raise PlanError(f"{name}: is of version {version[:20]}, this pack reads {VERSION}: update the pack")
    if checksum != _checksum(packed):
        raise PlanError(f"{name}: is damaged, its checksum is another one: copy the whole text again")
    try:
        return plan_from_json(_json(_unpacked(packed)), name)
    except (binascii.Error, zlib.error, UnicodeError, RecursionError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"{name}: holds no plan, {type(error).__name__}: {str(error)[:100]}") from None


def _checksum(packed: str) -> str:
    return hashlib.sha256(packed.encode(errors="replace")).hexdigest()[:_CHECKED]


def _unpacked(packed: str) -> bytes:
    """What was packed, but never more than a plan's file may hold."""
    stream = zlib.decompressobj()
    content = stream.decompress(base64.b64decode(packed, altchars=b"-_", validate=True), MOST_BYTES)
    if not stream.eof:
        raise ValueError(f"it unpacks to more than {MOST_BYTES} bytes, or ends too early")
    return content


def _json(content: bytes) -> str:
    """The plan's whole JSON, from what was packed."""
    if len(content) < _LENGTH.size:
        raise ValueError("it is empty")
    end = _LENGTH.size + _LENGTH.unpack_from(content)[0]
    data = json.loads(content[_LENGTH.size : end].decode())
    layers, heads, bands = data["layers"], data["heads"], data["bands"]
    if not all(type(size) is int and 0 < size < MOST_BYTES for size in (layers, heads)):
        raise ValueError("layers or heads are no sizes")
    numbers = np.frombuffer(content[end:], dtype=_head_type(len(data["patterns"])))
    if len(numbers) != len(bands) * layers * heads:
        raise ValueError(f"{len(numbers)} heads, expected {len(bands)} bands of {layers} x {heads}")
    for band, table in zip(bands, numbers.reshape(len(bands), layers, heads).tolist(), strict=True):
        if "heads" in band:
            raise ValueError("its heads are given twice")
        band["heads"] = table
    return json.dumps(data, ensure_ascii=False)


def _head_type(patterns: int) -> np.dtype:
    return np.dtype("u1" if patterns <= _WIDE else "<u2")
