"""Global memory: ranges of the host's memory with rights for each byte."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .errors import PtxError
from .numbers import I8, U1, U8, UNSIGNED

WRITERS = 255  # numbers of blocks are kept modulo this


@dataclass
class Range:
    """Memory of one storage. `readable` and `writable` are 1 for each byte that is; `writer` is the block that wrote
    a byte last, counted from 1.
    """

    name: str
    base: int
    data: np.ndarray
    readable: np.ndarray
    writable: np.ndarray
    writer: np.ndarray

    @property
    def end(self) -> int:
        return self.base + len(self.data)


class GlobalMemory:
    """What one launch may touch.

    Attributes:
        block: number of the block that runs.
    """

    def __init__(self) -> None:
        self.ranges: list[Range] = []
        self.block = 0
        self._last: Range | None = None

    def add(self, name: str, base: int, size: int) -> Range:
        """A range of the host's memory, without any rights yet."""
        if base % 16:
            raise ValueError(f"{name} starts at {base:#x}, which is not divisible by 16")
        data = np.frombuffer((ctypes.c_uint8 * size).from_address(base), U1)
        found = Range(name, base, data, *(np.zeros(size, U1) for _ in range(3)))
        self.ranges.append(found)
        return found

    def load(self, address: np.ndarray, size: int, count: int) -> np.ndarray:
        """(count, lanes) elements of so many bytes."""
        out = np.empty((count, len(address)), UNSIGNED[size])
        for found, lanes, index in self._ranges("load", address, size, count):
            data, rights = (_as(x, size) for x in (found.data, found.readable))
            self._check("load", "no tensor has", rights[index] == _repeated(1, size), address[lanes], size * count)
            out[:, lanes] = data[index]
        return out

    def store(self, address: np.ndarray, size: int, values: np.ndarray) -> None:
        """Store (count, lanes) elements of so many bytes."""
        own = _repeated(self.block % WRITERS + 1, size)
        for found, lanes, index in self._ranges("store", address, size, len(values)):
            at, whole = address[lanes], size * len(values)
            rights, writer = _as(found.writable, size), _as(found.writer, size)
            self._check("store", "the kernel may not write", rights[index] == _repeated(1, size), at, whole)
            before = writer[index]
            self._check("store", "another block has written", (before == 0) | (before == own), at, whole)
            data, wanted = _as(found.data, size), values[:, lanes]
            data[index] = wanted
            self._check("store", "another lane writes differently", data[index] == wanted, at, whole)
            writer[index] = own

    def _ranges(
        self, what: str, address: np.ndarray, size: int, count: int
    ) -> Iterator[tuple[Range, np.ndarray | slice, np.ndarray]]:
        """Ranges that lanes reach into, which lanes, and (count, lanes) indices of elements."""
        whole = U8(size * count)
        self._check(what, "misaligned", address & (whole - U8(1)) == 0, address, size * count)
        steps = np.arange(count, dtype=I8)[:, None]
        low, high, last = int(address.min()), int(address.max()) + size * count, self._last
        if last is not None and last.base <= low and high <= last.end:
            yield last, slice(None), ((address - U8(last.base)) // U8(size)).astype(I8) + steps
            return
        left = np.ones(len(address), bool)
        for found in self.ranges:
            inside = left & (address >= U8(found.base)) & (address + whole <= U8(found.end))
            if inside.any():
                self._last, left = found, left & ~inside
                yield found, inside, ((address[inside] - U8(found.base)) // U8(size)).astype(I8) + steps
        self._check(what, "outside of all tensors", ~left, address, size * count)

    def _check(self, what: str, why: str, fine: np.ndarray, address: np.ndarray, size: int) -> None:
        if fine.all():
            return
        bad = ~fine if fine.ndim == 1 else ~fine.all(0)
        at = int(address[bad][0])
        near = min(self.ranges, key=lambda found: max(found.base - at, at - found.end), default=None)
        place = f"{near.name} + {at - near.base} of {len(near.data)}" if near else "no memory"
        raise PtxError(f"{what} of {size} bytes, {why}: {place}, {int(bad.sum())} lanes")


def _as(data: np.ndarray, size: int) -> np.ndarray:
    """Bytes as elements of so many bytes; an odd end is no element."""
    return data[: len(data) // size * size].view(UNSIGNED[size])


def _repeated(byte: int, size: int) -> np.unsignedinteger:
    """An element whose bytes are all the same."""
    return UNSIGNED[size](int.from_bytes(bytes([byte]) * size, "little"))
