"""A plan as one line of text, short enough to travel in a widget of a workflow.

    sparse-vdit-plan:2:<first 12 hex digits of SHA-256 of what follows>:<base64 of LZMA of the plan>

What is packed is the plan's JSON without its large numbers, its length before it, and these numbers behind it as bytes
(`text_tables.py`). It is hostile until it is read: its size is bounded before and while it is unpacked, and what comes
out is checked as a file is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import lzma
import struct

from .files import MOST_BYTES, PlanError, plan_from_json, plan_to_json
from .plan import Plan
from .text_tables import heads_size, pack_columns, pack_heads, unpack_columns, unpack_heads

FORMAT, VERSION = "sparse-vdit-plan", 2
MOST_CHARACTERS = 200_000  # of the text; a plan of 40 x 40 heads takes some thousand
_LENGTH = struct.Struct("<I")
_CHECKED = 12  # hex digits
# without headers, and for numbers rather than prose, which they are for the most part; 14 % smaller than zlib's
_LZMA = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "dict_size": 2**20, "lc": 0, "pb": 0}]}


def plan_to_text(plan: Plan) -> str:
    """The plan as text, without spaces or line breaks.

    Raises:
        PlanError: the plan could not be read back.
    """
    data = json.loads(plan_to_json(plan))
    heads = pack_heads([band.pop("heads") for band in data["bands"]], len(plan.patterns))
    data["axes"], columns = pack_columns(data["patterns"])
    header = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    content = lzma.compress(_LENGTH.pack(len(header)) + header + heads + columns, **_LZMA)
    packed = base64.urlsafe_b64encode(content).decode()
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
        raise PlanError(
            f"{name}: does not begin with {FORMAT}:{VERSION}: and is no plan, copy the whole text that Save Sparse "
            "Plan gives; a plan file goes into the folder of plans instead"
        )
    _, version, checksum, packed = parts
    if version != str(VERSION):
        older = version in map(str, range(VERSION))
        mend = "ask for it again, from a newer pack" if older else "update the pack"
        raise PlanError(f"{name}: is of version {version[:20]!r}, this pack reads {VERSION}: {mend}")
    if checksum != _checksum(packed):
        raise PlanError(f"{name}: is damaged, its checksum is another one: copy the whole text again")
    try:
        return plan_from_json(_json(_unpacked(packed)), name)
    except (
        *(binascii.Error, lzma.LZMAError, UnicodeError, RecursionError),
        *(KeyError, TypeError, AttributeError, ValueError),
    ) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"{name}: holds no plan, {type(error).__name__}: {str(error)[:100]}") from None


def _checksum(packed: str) -> str:
    return hashlib.sha256(packed.encode(errors="replace")).hexdigest()[:_CHECKED]


def _unpacked(packed: str) -> bytes:
    """What was packed, but never more than a plan's file may hold."""
    stream = lzma.LZMADecompressor(**_LZMA)
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
    layers, heads, bands, patterns = (data[name] for name in ("layers", "heads", "bands", "patterns"))
    if not all(type(size) is int and 0 < size < MOST_BYTES for size in (layers, heads)):
        raise ValueError("layers or heads are no sizes")
    size = heads_size(len(bands), layers, heads, len(patterns))
    numbers, columns = content[end : end + size], content[end + size :]
    if len(numbers) != size:
        raise ValueError(f"{len(numbers)} bytes of heads, expected {size} for {len(bands)} bands of {layers} x {heads}")
    unpack_columns(patterns, data.pop("axes"), columns)
    tables = unpack_heads(numbers, len(bands), layers, heads, len(patterns))
    for band, table in zip(bands, tables, strict=True):
        if "heads" in band:
            raise ValueError("its heads are given twice")
        band["heads"] = table
    return json.dumps(data, ensure_ascii=False)
