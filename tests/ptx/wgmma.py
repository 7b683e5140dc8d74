"""wgmma of sm_90: asynchronous products of four warps, with the second matrix, or both, in shared memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .descriptors import ROW, decoded, row_addresses
from .errors import PtxError, UnsupportedPtxError
from .mma import left_matrix
from .numbers import I4, U1, U4, widen
from .operands import Mask, Slots, Step, constant_of
from .parsing import Immediate, Instruction, Vector
from .shared_memory import TENSOR_CORE, Access, rows_of

if TYPE_CHECKING:
    from .cta import Cta

GROUP = 128  # threads of a warpgroup
ROWS = 64  # of the product of a warpgroup


@dataclass(frozen=True)
class Form:
    """What one wgmma says.

    Attributes:
        kind: type of the elements.
        n, k: the product is 64 x k times k x n.
        target: slots of the sums.
        left: slots of A, or the slot of its descriptor.
        right: slot of B's descriptor.
        keep: slot of the predicate that says whether the old sums count.
        transposed: of A and B.
    """

    instruction: Instruction
    kind: str
    n: int
    k: int
    target: tuple[int, ...]
    left: tuple[int, ...] | int
    right: int
    keep: int
    transposed: tuple[bool, bool]


@dataclass(frozen=True)
class Product:
    """A product in flight: what it reads until it is waited for."""

    form: Form
    reads: list[Access]
    registers: list[np.ndarray]


class Wgmma:
    """Products of a block. The sums show when they are waited for; until then their registers have no value."""

    def __init__(self, cta: Cta):
        self.cta = cta
        self.open: list[Product] = []
        self.groups: list[list[Product]] = []
        self.sums: dict[tuple[int, ...], np.ndarray] = {}
        self.fenced: list[np.ndarray | None] = []  # what registers held at the last wgmma.fence

    @property
    def in_flight(self) -> list[Product]:
        return [product for group in (*self.groups, self.open) for product in group]

    @property
    def reads(self) -> list[Access]:
        """What products in flight read of shared memory."""
        return [access for product in self.in_flight for access in product.reads]

    @property
    def pending(self) -> str:
        return "wgmma is not waited for" if self.sums else ""

    def fence(self, mask: Mask) -> None:
        """wgmma.fence: what registers hold now, products may read."""
        self.cta.need_all(mask)
        self.fenced = list(self.cta.registers)

    def commit(self, mask: Mask) -> None:
        self.cta.need_all(mask)
        self.groups.append(self.open)
        self.open = []

    def wait(self, keep: int, mask: Mask) -> None:
        self.cta.need_all(mask)
        while len(self.groups) > keep:
            for product in self.groups.pop(0):
                self._finish(product)

    def start(self, form: Form, mask: Mask) -> None:
        """Compute a product and keep it aside."""
        self.cta.need_all(mask)
        reads: list[Access] = []
        left = [] if isinstance(form.left, int) else form.left
        self._need_fence((*left, *(() if form.target in self.sums else form.target)))
        keep = self.cta.registers[form.keep]
        if keep.any() != keep.all():
            raise UnsupportedPtxError("scale-d that differs between threads")
        out = self._registers(form, self._products(form, reads))
        if keep.all():
            out = out + self._old(form, out.dtype)
        self.sums[form.target] = out
        for place in form.target:
            self.cta.registers[place] = None
        self.open.append(Product(form, reads, [self.cta.registers[place] for place in left]))

    def _products(self, form: Form, reads: list[Access]) -> np.ndarray:
        """(groups, 64, n) fp32."""
        groups = self.cta.threads // GROUP
        if isinstance(form.left, int):
            left = self._matrices(form, form.left, ROWS, form.transposed[0], reads)
        else:
            left = [*left_matrix(self.cta, form.kind, form.left).reshape(groups, ROWS, form.k)]
        right = self._matrices(form, form.right, form.n, form.transposed[1], reads)
        return np.stack([a @ b.T for a, b in zip(left, right, strict=True)])

    def _matrices(self, form: Form, slot: int, count: int, transposed: bool, reads: list[Access]) -> list[np.ndarray]:
        """A matrix (count, k) for each warpgroup, those of one descriptor only once."""
        known: dict[int, np.ndarray] = {}
        found = []
        for bits in self.cta.registers[slot].reshape(-1, GROUP):
            if (bits != bits[0]).any():
                raise PtxError("a descriptor that differs within a warpgroup")
            if int(bits[0]) not in known:
                matrix = decoded(int(bits[0]), "sm_90")
                at = row_addresses(matrix, count, form.k, 1 if form.kind == "s8" else 2, transposed)
                known[int(bits[0])] = load_matrix(self.cta, at, form.kind, transposed, form.instruction, reads)
            found.append(known[int(bits[0])])
        return found

    @staticmethod
    def _registers(form: Form, products: np.ndarray) -> np.ndarray:
        """(n / 2, threads) sums as registers hold them."""
        tiled = products.reshape(len(products), 4, 2, 8, form.n // 8, 4, 2)  # warps, row halves, rows, columns
        out = np.ascontiguousarray(tiled.transpose(4, 2, 6, 0, 1, 3, 5)).reshape(form.n // 2, -1)
        return out.astype(I4) if form.kind == "s8" else out

    def _old(self, form: Form, dtype: np.dtype) -> np.ndarray:
        if form.target in self.sums:
            return self.sums[form.target]
        if any(self.cta.registers[place] is None for place in form.target):
            raise PtxError("adds to registers without a value, or in flight")
        return np.stack([self.cta.registers[place] for place in form.target]).view(dtype)

    def _need_fence(self, places: tuple[int, ...]) -> None:
        """Registers have to be written before the last fence (PTX ISA, wgmma.fence)."""
        registers = self.cta.registers
        if any(not self.fenced or self.fenced[place] is not registers[place] for place in places):
            raise PtxError("registers that wgmma uses were written since the last wgmma.fence")

    def _finish(self, product: Product) -> None:
        registers, form = self.cta.registers, product.form
        left = () if isinstance(form.left, int) else form.left
        if any(registers[place] is not value for place, value in zip(left, product.registers, strict=True)):
            raise PtxError("registers of A change while wgmma reads them", form.instruction)
        if any(later.form.target == form.target for later in self.in_flight) or form.target not in self.sums:
            return
        for place, value in zip(form.target, self.sums.pop(form.target), strict=True):
            if registers[place] is not None:
                raise PtxError("sums are written while wgmma is in flight", form.instruction)
            registers[place] = value.view(U4)


def load_matrix(
    cta: Cta, at: np.ndarray, kind: str, transposed: bool, instruction: Instruction, reads: list[Access]
) -> np.ndarray:
    """A matrix (count, k) fp32 from the addresses of its rows, read by the tensor core. Adds to `reads`."""
    warps = np.full(at.size, TENSOR_CORE, U1)
    access = cta.shared.access(at.reshape(-1), ROW, warps, instruction)
    reads.append(access)
    values = widen(rows_of(cta.shared.tensor_load(access)), kind).reshape(len(at), -1)
    return values.T if transposed else values


def translate_wgmma(slots: Slots, instruction: Instruction) -> Step:
    """wgmma.mma_async, its fence, groups and waits."""
    what = instruction.parts[1]
    if what == "fence":
        return lambda cta, mask: cta.wgmma.fence(mask)
    if what == "commit_group":
        return lambda cta, mask: cta.wgmma.commit(mask)
    if what == "wait_group":
        keep = constant_of(instruction.operands[0])
        return lambda cta, mask: cta.wgmma.wait(keep, mask)
    form = _form(slots, instruction)
    return lambda cta, mask: cta.wgmma.start(form, mask)


def _form(slots: Slots, instruction: Instruction) -> Form:
    shape, sums, kind = instruction.parts[4:7]
    n, k = (int(number) for number in re.fullmatch(r"m64n(\d+)k(\d+)", shape).groups())
    if (sums, kind) not in (("f32", "bf16"), ("f32", "f16"), ("s32", "s8")):
        raise UnsupportedPtxError("wgmma of other types")
    target, left, right, keep, *rest = instruction.operands
    numbers = [constant_of(operand) for operand in rest]
    in_registers = isinstance(left, Vector)
    if sums == "f32" and numbers[:2] != [1, 1]:
        raise UnsupportedPtxError("wgmma of negated matrices")
    return Form(
        instruction, kind, n, k, slots.vector(target, "b32"),
        slots.vector(left, "b32") if in_registers else slots.source(left, "b64"),
        slots.source(right, "b64"),
        slots.constant(keep.value, "pred") if isinstance(keep, Immediate) else slots.source(keep, "pred"),
        (False, False, *(bool(number) for number in numbers[2:]))[-2:],
    )  # fmt: skip


TRANSLATORS = {"wgmma": translate_wgmma}
