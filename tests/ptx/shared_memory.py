"""Shared memory of a block: bounds, bytes never written, copies in flight, races and missing proxy fences.

Accesses are logged until the next barrier. Between two barriers a byte may be stored by one warp (or by several with
one value), and read by that warp alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import PtxError
from .numbers import U1, U4, U8, UNSIGNED
from .parsing import Instruction

NEVER_WRITTEN, IN_FLIGHT = 1, 2  # states of a byte; 0 is fine
NOBODY, TENSOR_CORE = 255, 254  # where a warp's number stands
BYTES = {size: np.array([byte * (256**size - 1) // 255 for byte in range(256)], UNSIGNED[size]) for size in UNSIGNED}
"""Elements whose bytes are all the same, by size and byte."""


@dataclass(frozen=True)
class Access:
    """Elements that one instruction touches.

    Attributes:
        size: bytes of an element, 1 to 8.
        index: of elements.
        warps: who touches each of them.
        values: what was stored; None for loads and for copies that have not arrived.
    """

    size: int
    index: np.ndarray
    warps: np.ndarray
    instruction: Instruction
    values: np.ndarray | None = None


class SharedMemory:
    """Bytes of a block's shared memory, which starts at the address `base`, with what is known of each."""

    def __init__(self, size: int, base: int):
        self.size, self.base = size, base
        whole = -(-size // 16) * 16 + 16
        self._data = _views(np.full(whole, 0xFF, U1))
        self._state = _views(np.full(whole, NEVER_WRITTEN, U1))
        self._unfenced = _views(np.zeros(whole, U1))
        self._owner = _views(np.full(whole, NOBODY, U1))
        self._loads: list[Access] = []
        self._stores: list[Access] = []
        self._fencing: np.ndarray | bool = False  # threads that executed a fence since the last store

    def access(self, address: np.ndarray, size: int, warps: np.ndarray, instruction: Instruction) -> Access:
        """What lanes reach with so many bytes each, checked. 16 bytes become two elements of 8."""
        offset = address - U4(self.base)
        if int(offset.max()) > self.size - size:
            bad = offset > U4(max(self.size - size, 0))
            raise PtxError(f"shared address {int(offset[bad][0])} + {size} of {self.size} bytes, {bad.sum()} lanes")
        if (offset & U4(size - 1)).any():
            raise PtxError(f"misaligned shared access of {size} bytes")
        if size == 16:
            index = ((offset >> U4(3))[:, None] + np.arange(2, dtype=U4)).reshape(-1)
            return Access(8, index, np.repeat(warps, 2), instruction)
        return Access(size, offset >> U4(size.bit_length() - 1), warps, instruction)

    def load(self, access: Access) -> np.ndarray:
        """Elements that an access reads."""
        state = self._state[access.size][access.index]
        if state.any():
            flying = (state & BYTES[access.size][IN_FLIGHT]).any()
            raise PtxError("reads shared bytes " + ("that a copy has yet to bring" if flying else "never written"))
        self._loads.append(access)
        return self._data[access.size][access.index]

    def store(self, access: Access, values: np.ndarray) -> None:
        """Store elements."""
        size, index = access.size, access.index
        if (self._state[size][index] & BYTES[size][IN_FLIGHT]).any():
            raise PtxError("stores where a copy is in flight")
        self._put(access, values)
        if (self._data[size][index] != values).any():
            raise PtxError("lanes store different values at one place")

    def begin_copy(self, access: Access) -> None:
        """Where a copy will arrive. Nobody may see the bytes that were there either."""
        size, index = access.size, access.index
        if (self._state[size][index] & BYTES[size][IN_FLIGHT]).any():
            raise PtxError("copies where another copy is in flight")
        self._state[size][index] = BYTES[size][IN_FLIGHT]
        self._stores.append(access)

    def end_copy(self, access: Access, values: np.ndarray) -> None:
        """A copy arrives: only the warp that waited for it may read before the next barrier."""
        self._put(access, values)

    def tensor_load(self, access: Access) -> np.ndarray:
        """Elements that a tensor core reads, through the asynchronous proxy."""
        values = self.load(access)
        loose = self._unfenced[access.size][access.index]
        if loose.any():
            raise PtxError(f"the tensor core reads {np.count_nonzero(loose)} words stored since the last proxy fence")
        return values

    def fence(self, threads: np.ndarray | None) -> None:
        """fence.proxy.async by some threads (None: all): once all of them have executed one, and nothing was stored in
        between, what was stored so far is visible to tensor cores."""
        self._fencing = True if threads is None else self._fencing | threads
        if np.all(self._fencing):
            self._unfenced[1].fill(0)

    def end_epoch(self, still_read: list[Access]) -> None:
        """A barrier: look for races since the last one. What tensor cores still read goes on into the next epoch."""
        if self._stores:
            self._find_races()
        self._stores, self._loads = [], [*still_read]

    def _put(self, access: Access, values: np.ndarray) -> None:
        size, index = access.size, access.index
        self._data[size][index] = values
        self._state[size][index] = 0
        self._unfenced[size][index] = BYTES[size][1]
        self._fencing = False
        self._stores.append(Access(size, index, access.warps, access.instruction, values))

    def _find_races(self) -> None:
        for access in self._stores:
            self._owner[access.size][access.index] = BYTES[access.size][access.warps]
        for access in self._stores:
            other = self._owner[access.size][access.index] != BYTES[access.size][access.warps]
            if not other.any():
                continue
            now = self._data[access.size][access.index]
            if access.values is None or (now[other] != access.values[other]).any():
                raise PtxError("two warps store at one place between the same barriers", access.instruction)
        for size in UNSIGNED:
            self._find_read_races([access for access in self._loads if access.size == size], size)
        self._owner[1].fill(NOBODY)

    def _find_read_races(self, loads: list[Access], size: int) -> None:
        if not loads:
            return
        index, warps = (np.concatenate([getattr(access, name) for access in loads]) for name in ("index", "warps"))
        owner = self._owner[size][index]
        suspects = np.flatnonzero((owner != BYTES[size][NOBODY]) & (owner != BYTES[size][warps]))
        owners = owner[suspects].view(U1).reshape(len(suspects), size)
        raced = suspects[((owners != NOBODY) & (owners != warps[suspects, None])).any(1)]
        if len(raced):
            ends = np.cumsum([len(access.index) for access in loads])
            instruction = loads[int(np.searchsorted(ends, raced[0], "right"))].instruction
            raise PtxError("reads what another warp stores between the same barriers", instruction)


def _views(data: np.ndarray) -> dict[int, np.ndarray]:
    """The same bytes as elements of each size."""
    return {size: data.view(kind) for size, kind in UNSIGNED.items()}


def rows_of(values: np.ndarray) -> np.ndarray:
    """Rows of 16 bytes, as four words each, from elements of 8."""
    return values.view(U4).reshape(-1, 4)


def elements_of(rows: np.ndarray) -> np.ndarray:
    """Elements of 8 bytes of rows of four words."""
    return np.ascontiguousarray(rows).view(U8).reshape(-1)
