"""Places of a kernel's operands: each register, constant and special register has a slot in one list of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from .errors import UnsupportedPtxError
from .numbers import DTYPES, UNSIGNED, size_of
from .parsing import Address, Immediate, Operand, Register, Special, Symbol, Vector

if TYPE_CHECKING:
    from .cta import Cta

Mask = np.ndarray | None
"""Threads that execute an instruction; None for all."""

Step = Callable[["Cta", Mask], None]
"""An instruction made ready to run."""


class Slots:
    """Gives operands their slots. Slots hold bits: arrays of unsigned numbers, bool for predicates.

    Attributes:
        kinds: declared type of each slot.
        constants: arrays of the slots that no instruction writes.
        specials: slots of special registers by name.
    """

    def __init__(self, threads: int, shared_base: int):
        self.threads, self.shared_base = threads, shared_base
        self.kinds: list[str] = []
        self.constants: dict[int, np.ndarray] = {}
        self.specials: dict[str, int] = {}
        self._registers: dict[str, int] = {}
        self._known: dict[tuple[int, str], int] = {}

    def source(self, operand: Operand, kind: str) -> int:
        """Slot of what is read as a type."""
        if isinstance(operand, Immediate):
            return self.constant(operand.value, kind)
        if isinstance(operand, Symbol):  # the one array in shared memory
            return self.constant(self.shared_base, kind)
        if isinstance(operand, Special):
            if operand.name not in self.specials:
                self.specials[operand.name] = self._new("u32")
            return self.specials[operand.name]
        if not isinstance(operand, Register):
            raise UnsupportedPtxError(f"{operand} where a register belongs")
        return self._register(operand, kind)

    def target(self, operand: Operand, kind: str) -> int:
        """Slot of a register that is written as a type."""
        if not isinstance(operand, Register):
            raise UnsupportedPtxError(f"{operand} where a register belongs")
        return self._register(operand, kind)

    def vector(self, operand: Operand, kind: str) -> tuple[int, ...]:
        """Slots of the items of a vector, or of one register."""
        items = operand.items if isinstance(operand, Vector) else (operand,)
        return tuple(self.source(item, kind) for item in items)

    def constant(self, value: int, kind: str) -> int:
        """Slot of a constant."""
        key = value, kind
        if key not in self._known:
            size = size_of(kind)
            bits = np.bool_(value) if kind == "pred" else UNSIGNED[size](value % 2 ** (8 * size))
            self._known[key] = slot = self._new(kind)
            self.constants[slot] = np.full(self.threads, bits)
            self.constants[slot].flags.writeable = False
        return self._known[key]

    def address(self, operand: Operand, space: str) -> Callable[[Cta], np.ndarray]:
        """A function that gives the addresses of all threads: 64 bits wide in `global` memory, else 32."""
        if not isinstance(operand, Address):
            raise UnsupportedPtxError(f"{operand} where an address belongs")
        kind = "u64" if space == "global" else "u32"
        slot, offset = self.source(operand.base, kind), operand.offset
        if not offset:
            return lambda cta: cta.registers[slot]
        step = DTYPES[kind](offset % 2 ** (8 * size_of(kind)))
        return lambda cta: cta.registers[slot] + step

    def without_value(self, operands: Iterable[Operand | None], registers: list[np.ndarray | None]) -> list[str]:
        """Names of registers among operands, and within them, that hold nothing."""
        found = []
        for operand in operands:
            if isinstance(operand, Vector):
                found += self.without_value(operand.items, registers)
            elif isinstance(operand, Address):
                found += self.without_value([operand.base], registers)
            elif isinstance(operand, Register) and registers[self._registers[operand.name]] is None:
                found.append(operand.name)
        return found

    def _register(self, operand: Register, kind: str) -> int:
        if size_of(operand.kind) != size_of(kind) or (operand.kind == "pred") != (kind == "pred"):
            raise UnsupportedPtxError(f"{operand.name} is .{operand.kind}, used as .{kind}")
        if operand.name not in self._registers:
            self._registers[operand.name] = self._new(operand.kind)
        return self._registers[operand.name]

    def _new(self, kind: str) -> int:
        self.kinds.append(kind)
        return len(self.kinds) - 1


def merged(mask: np.ndarray, new: np.ndarray, old: np.ndarray | None) -> np.ndarray:
    """New values where the mask has them. Threads without any value get all ones, which are NaN as floats."""
    if old is None:
        old = np.full(len(mask), -1).astype(new.dtype)
    return np.where(mask, new, old)


def constant_of(operand: Operand) -> int:
    """Value of an operand that has to be a constant."""
    if not isinstance(operand, Immediate):
        raise UnsupportedPtxError(f"{operand} where a constant belongs")
    return operand.value
