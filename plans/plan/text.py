"""A plan as one line of text, short enough to travel in a widget of a workflow.

    sparse-vdit-plan:3:<first 12 hex digits of SHA-256 of what follows>:<base64 of zlib of the plan's JSON>

It is hostile until it is read: its size is bounded before and while it is unpacked, and what comes out is checked as a
file is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib

from .files import MAX_PLAN_BYTES, PlanError, plan_from_json, plan_to_json
from .plan import Plan

FORMAT, VERSION = "sparse-vdit-plan", 3
MAX_CHARACTERS = 200_000  # of the text; a plan of 40 x 40 heads takes some thousand
CHECKSUM_DIGITS = 12


def plan_to_text(plan: Plan) -> str:
    """The plan as text, without spaces or line breaks.

    Raises:
        PlanError: the plan could not be read back.
    """
    content = json.dumps(json.loads(plan_to_json(plan)), ensure_ascii=False, separators=(",", ":")).encode()
    packed = base64.urlsafe_b64encode(zlib.compress(content, 9)).decode()
    text = f"{FORMAT}:{VERSION}:{_checksum(packed)}:{packed}"
    plan_from_text(text)
    return text


def plan_from_text(text: str, name: str = "plan text") -> Plan:
    """Plan from its text; spaces and line breaks that mail or a chat has put in do not matter.

    Raises:
        PlanError: anything but a plan's whole text of this version; the message begins with `name` or the JSON path of
            a field.
    """
    if len(text) > MAX_CHARACTERS:
        raise PlanError(f"{name}: {len(text)} characters are too many, expected at most {MAX_CHARACTERS}")
    parts = "".join(text.split()).split(":")
    if len(parts) != 4 or parts[0] != FORMAT:
        raise PlanError(
            f"{name}: does not begin with {FORMAT}:{VERSION}: and is no plan, copy the whole text that Save Sparse "
            "Plan gives; a plan file goes into the folder of plans instead"
        )
    _, version, checksum, packed = parts
    if version != str(VERSION):
        older = version in map(str, range(VERSION))
        remedy = "ask for it again, from a newer pack" if older else "update the pack"
        raise PlanError(f"{name}: is of version {version[:20]!r}, this pack reads {VERSION}: {remedy}")
    if checksum != _checksum(packed):
        raise PlanError(f"{name}: is damaged, its checksum is another one: copy the whole text again")
    return plan_from_json(_unpacked(packed, name), name)


def _checksum(packed: str) -> str:
    return hashlib.sha256(packed.encode(errors="replace")).hexdigest()[:CHECKSUM_DIGITS]


def _unpacked(packed: str, name: str) -> str:
    """The JSON that was packed, but never more than a plan's file may hold."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(base64.b64decode(packed, altchars=b"-_", validate=True), MAX_PLAN_BYTES)
        if not unpacker.eof:
            raise PlanError(f"{name}: unpacks to more than {MAX_PLAN_BYTES} bytes, or ends too early")
        if unpacker.unused_data:
            raise PlanError(f"{name}: something follows the packed plan, copy the text that Save Sparse Plan gives")
        return content.decode()
    except (binascii.Error, zlib.error, UnicodeError):
        raise PlanError(f"{name}: cannot be unpacked, copy the text that Save Sparse Plan gives again") from None
