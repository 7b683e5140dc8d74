"""The numbers of a plan as few bytes: tables of heads, and the columns of stripes (`text.py`)."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ...kernels.patterns.vertical_stripe import MOST_BOXES
from .plan import MOST_PATTERNS

_WIDE = 255  # patterns, beyond which a head takes two bytes
_FEW = 3  # columns, up to which they stay as they are
_MOST_CELLS = 4096

Axes = list[list[list[float]]]
"""Of each axis, the distinct (low, high) bounds of columns."""


def pack_heads(tables: list[list[list[int]]], patterns: int) -> bytes:
    """Numbers of patterns [band][layer][head], from 1 on; 0 where a head stays as it was in the band before."""
    heads = np.array(tables) + 1
    packed = heads.copy()
    packed[1:][heads[1:] == heads[:-1]] = 0
    return packed.astype(_head_type(patterns)).tobytes()


def heads_size(bands: int, layers: int, heads: int, patterns: int) -> int:
    """Bytes that tables take."""
    return bands * layers * heads * _head_type(patterns).itemsize


def unpack_heads(packed: bytes, bands: int, layers: int, heads: int, patterns: int) -> list[list[list[int]]]:
    """What was packed.

    Raises:
        ValueError: a head of the first band stays as it was.
    """
    tables = np.frombuffer(packed, dtype=_head_type(patterns)).reshape(bands, layers, heads).astype(np.int64)
    for band in range(1, bands):
        tables[band] = np.where(tables[band] == 0, tables[band - 1], tables[band])
    if (tables[:1] == 0).any():
        raise ValueError("a head of the first band has no pattern")
    return (tables - 1).tolist()


def pack_columns(patterns: list[dict]) -> tuple[Axes, bytes]:
    """Take the columns out of stripes that have many: each as bits over all boxes of the axes' bounds.

    Args:
        patterns: in JSON form; where columns are taken out, they are None.
    """
    stripes = [pattern for pattern in patterns if len(pattern.get("columns", ())) > _FEW]
    columns = [box for stripe in stripes for box in stripe["columns"]]
    axes = [sorted({tuple(box[at : at + 2]) for box in columns}) for at in (0, 2, 4)]
    if math.prod(map(len, axes)) > _MOST_CELLS:
        return [], b""
    boxes, packed = _boxes(axes), []
    for stripe in stripes:
        chosen = {tuple(box) for box in stripe["columns"]}
        bits = [box in chosen for box in boxes]
        if stripe["columns"] == [list(box) for box in itertools.compress(boxes, bits)]:  # in this order, none twice
            stripe["columns"] = None
            packed.append(np.packbits(bits).tobytes())
    return ([[list(pair) for pair in axis] for axis in axes], b"".join(packed)) if packed else ([], b"")


def unpack_columns(patterns: list[dict], axes: Axes, packed: bytes) -> None:
    """Put the columns back.

    Raises:
        ValueError: more or fewer bytes than the patterns need, or too many boxes.
    """
    stripes = [pattern for pattern in patterns if pattern.get("columns", ()) is None]
    if len(stripes) > MOST_PATTERNS or len(axes) not in (0, 3) or not all(map(_is_axis, axes)):
        raise ValueError(f"{len(stripes)} stripes, expected at most {MOST_PATTERNS} on three axes of pairs of numbers")
    cells = math.prod(len(axis) for axis in axes) if stripes else 0
    if cells > _MOST_CELLS or len(packed) != len(stripes) * math.ceil(cells / 8):
        raise ValueError(f"{len(packed)} bytes of columns, expected those of {len(stripes)} stripes of {cells} boxes")
    if not stripes:
        return
    boxes = [list(box) for box in _boxes(axes)]
    rows = np.unpackbits(np.frombuffer(packed, np.uint8)).reshape(len(stripes), -1)
    for stripe, bits in zip(stripes, rows, strict=True):
        if bits.sum() > MOST_BOXES:
            raise ValueError(f"a stripe of {bits.sum()} columns, expected at most {MOST_BOXES}")
        stripe["columns"] = list(itertools.compress(boxes, bits))


def _is_axis(axis: object) -> bool:
    """Whether it is a list of pairs of numbers."""
    return isinstance(axis, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(bound) in (int, float) for bound in pair)
        for pair in axis
    )


def _boxes(axes: Axes) -> list[tuple[float, ...]]:
    return [(*t, *h, *w) for t, h, w in itertools.product(*axes)]


def _head_type(patterns: int) -> np.dtype:
    return np.dtype("u1" if patterns <= _WIDE else "<u2")
