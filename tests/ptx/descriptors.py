"""Descriptors: how tensor cores of sm_90 and sm_100 find a matrix in shared memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import PtxError, UnsupportedPtxError
from .numbers import U4

ROW = 16  # bytes that lie together in any layout
SWIZZLES = {  # bytes of a swizzled line by its code
    "sm_90": {0: 0, 1: 128, 2: 64, 3: 32},
    "sm_100": {0: 0, 2: 128, 4: 64, 6: 32},
}


@dataclass(frozen=True)
class Descriptor:
    """A matrix in shared memory: address, bytes from one group of 8 rows to the next in both directions, and bytes of
    a swizzled line (0 without a swizzle).
    """

    start: int
    leading: int
    stride: int
    line: int


def decoded(bits: int, arch: str) -> Descriptor:
    """Fields of a descriptor. Raises PtxError where fixed bits differ."""
    if arch == "sm_90":
        valid, code = not bits >> 46 & 7 and not bits >> 52 & 1023, bits >> 62
    else:
        valid, code = bits >> 46 & 7 == 1 and not bits >> 52 & 1, bits >> 61
    if not valid:
        raise PtxError(f"{bits:#x} is no descriptor of {arch}")
    if bits >> 49 & 7 or code not in SWIZZLES[arch]:
        raise UnsupportedPtxError(f"descriptor {bits:#x} with a base offset or an unknown swizzle")
    start, leading, stride = ((bits >> place & 0x3FFF) << 4 for place in (0, 16, 32))
    return Descriptor(start, leading, stride, SWIZZLES[arch][code])


def row_addresses(matrix: Descriptor, count: int, k: int, size: int, transposed: bool) -> np.ndarray:
    """Addresses of the 16-byte rows of a matrix of count x k elements.

    Args:
        size: bytes of an element.
        transposed: whether `count` and not `k` runs along the rows.

    Returns:
        (count, k / elements of a row), or (k, count / elements of a row) if transposed.
    """
    if transposed:
        at = _transposed(matrix, count, k, size)
    else:
        line, rows = np.arange(count)[:, None], np.arange(k * size // ROW)
        if matrix.line and matrix.start % matrix.line + k * size > matrix.line:
            raise UnsupportedPtxError("a product beyond the swizzled line")
        within, step = (matrix.line, ROW) if matrix.line else (ROW, matrix.leading)
        at = matrix.start + line % 8 * within + line // 8 * matrix.stride + rows * step
    if matrix.line:  # bits of the line's number within 1024 bytes go over those of the row
        at = at ^ ((at >> 7 & (matrix.line // ROW - 1)) << 4)
    return at.astype(U4)


def _transposed(matrix: Descriptor, count: int, k: int, size: int) -> np.ndarray:
    if size != 2:
        raise UnsupportedPtxError("a transposed matrix of 8 bits")
    line, rows = np.arange(k)[:, None], np.arange(count * size // ROW)
    if not matrix.line:
        return matrix.start + line % 8 * ROW + line // 8 * matrix.leading + rows * matrix.stride
    each = matrix.line // ROW
    within = line % 8 * matrix.line + line // 8 * matrix.stride
    return matrix.start + within + rows % each * ROW + rows // each * matrix.leading
