"""Tensor memory of sm_100, products in it, and the barriers in shared memory that say when they are done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .descriptors import decoded, row_addresses
from .errors import PtxError, UnsupportedPtxError
from .numbers import F4, U4, U8, widen
from .operands import Mask
from .parsing import Address, Instruction
from .shared_memory import Access
from .wgmma import load_matrix

if TYPE_CHECKING:
    from .cta import Cta

LANES, COLUMNS = 128, 512  # of tensor memory, words of 32 bits
LANE_SHIFT, COLUMN_MASK = U4(16), U4(0xFFFF)  # of its addresses
K = 16  # of a product of 16-bit elements
KINDS = {0: "f16", 1: "bf16"}  # in instruction descriptors
BARRIER_BYTES = 8


@dataclass
class Barrier:
    """An mbarrier: its phase, arrivals that this phase still waits for, and arrivals of a phase."""

    phase: int
    missing: int
    count: int


@dataclass
class Product:
    """A product in flight: D, in `columns` from `target` on, = A B^T (+ D). A is in tensor memory at `left_column`, or
    `left` is its values, as B's are `right`.
    """

    target: int
    columns: int
    keep: bool
    kind: str
    right: np.ndarray
    left: np.ndarray | None = None
    left_column: int | None = None
    reads: list[Access] = field(default_factory=list)


class TensorMemory:
    """Tensor memory of a block, products that run in order, and mbarriers.

    A product runs when a barrier that it is committed to is waited for, and not before: who does not wait sees old
    values. Shared memory is read when the product starts, as races with it are looked for anyway.
    """

    def __init__(self, cta: Cta):
        self.cta = cta
        self.cells: np.ndarray | None = None
        self.first = self.columns = 0
        self.queue: list[Product | int] = []  # a number is the address of a barrier to arrive at
        self.barriers: dict[int, Barrier] = {}
        self.polled: set[tuple[int, int]] = set()
        self.stored = False  # without a wait since
        self.loading: list[tuple[int, np.ndarray]] = []  # registers that get their value at the next wait

    @property
    def products(self) -> list[Product]:
        return [item for item in self.queue if isinstance(item, Product)]

    @property
    def reads(self) -> list[Access]:
        """What products in flight read of shared memory."""
        return [access for product in self.products for access in product.reads]

    @property
    def pending(self) -> str:
        return "tcgen05.mma is not waited for" if self.queue else "tensor memory is not freed" if self.columns else ""

    # allocation
    def allocate(self, address: np.ndarray, columns: int, mask: Mask, instruction: Instruction) -> None:
        """One warp takes columns; their address goes to shared memory."""
        self.cta.need_warps(mask)
        lanes = np.arange(self.cta.threads) if mask is None else np.flatnonzero(mask)
        if len(lanes) != 32 or self.cells is not None:
            raise PtxError("tcgen05.alloc by other than one warp, or twice")
        if columns not in (32, 64, 128, 256, 512):
            raise PtxError(f"tcgen05.alloc of {columns} columns")
        self.first, self.columns = (128 if columns <= 256 else 0), columns  # 128: that addresses are used, shows
        self.cells = np.full((LANES, COLUMNS), 0xFFFFFFFF, U4)
        access = self.cta.shared.access(address[lanes[:1]], 4, self.cta.warps[lanes[:1]], instruction)
        self.cta.shared.store(access, np.array([self.first], U4))

    def free(self, address: np.ndarray, columns: int, mask: Mask) -> None:
        lanes = self.cta.lanes(mask)
        if len(self.cta.warps[lanes]) != 32 or columns != self.columns or (address[lanes] != self.first).any():
            raise PtxError("tcgen05.dealloc of what was not allocated, or by other than one warp")
        if self.queue:
            raise PtxError("tensor memory is freed while products are in flight")
        self.columns = 0

    # registers to tensor memory and back
    def load(self, shape: str, address: np.ndarray, second: int, places: tuple[int, ...], mask: Mask) -> None:
        """tcgen05.ld: the values show at the next wait::ld."""
        lanes = self.cta.lanes(mask)
        rows, columns = self._cells(shape, len(places), address, second, mask)
        self._need_idle(columns, len(places), "reads tensor memory that a product in flight writes", False)
        self._need_stored("tcgen05.ld")
        values = self.cells[rows, columns + np.arange(len(places))[:, None]]
        for place, value in zip(places, values, strict=True):
            self.cta.set_lanes(place, value, lanes)
            self.loading.append((place, self.cta.registers[place]))
            self.cta.registers[place] = None

    def store(self, shape: str, address: np.ndarray, second: int, places: tuple[int, ...], mask: Mask) -> None:
        """tcgen05.st: other instructions may use it after the next wait::st."""
        lanes = self.cta.lanes(mask)
        rows, columns = self._cells(shape, len(places), address, second, mask)
        self._need_idle(columns, len(places), "stores to tensor memory that a product in flight uses", True)
        values = np.stack([self.cta.registers[place][lanes] for place in places])
        self.cells[rows, columns + np.arange(len(places))[:, None]] = values
        self.stored = True

    def wait(self, what: str, mask: Mask) -> None:
        self.cta.need_all(mask)
        if what == "st":
            self.stored = False
            return
        for place, value in self.loading:
            self.cta.registers[place] = value
        self.loading = []

    def _cells(
        self, shape: str, count: int, address: np.ndarray, second: int, mask: Mask
    ) -> tuple[np.ndarray, np.ndarray]:
        """Row and first column of each thread. A warp reaches the 32 lanes of its number modulo 4."""
        self.cta.need_warps(mask)
        threads = np.arange(self.cta.threads)[self.cta.lanes(mask)]
        by_warp = address[threads].reshape(-1, 32)
        if (by_warp != by_warp[:, :1]).any():
            raise PtxError("a tensor memory address that differs within a warp")
        lane, column = ((address[threads] >> LANE_SHIFT).astype(int), (address[threads] & COLUMN_MASK).astype(int))
        quarter, own = threads // 32 % 4 * 32, threads % 32
        allowed = lane == quarter
        if shape == "32x32b":
            rows = lane + own
        elif shape == "16x32bx2":  # the upper half of the warp has the same rows at other columns
            rows, column = lane + own % 16, column + np.where(own >= 16, second, 0)
            allowed |= lane == quarter + 16
        else:
            raise UnsupportedPtxError(f"tcgen05 of shape {shape}")
        if not allowed.all():
            raise PtxError("a warp reaches into the lanes of another")
        for first in np.unique(column):
            self._need_columns(int(first), count)
        return rows, column

    def _need_columns(self, first: int, count: int) -> None:
        if first < self.first or first + count > self.first + self.columns:
            raise PtxError(f"columns {first} + {count} of tensor memory, allocated are {self.first} + {self.columns}")

    def _need_idle(self, columns: np.ndarray, count: int, text: str, stores: bool) -> None:
        used = {int(first) + i for first in np.unique(columns) for i in range(count)}
        for product in self.products:
            busy = {*range(product.target, product.target + product.columns)}
            if stores and product.left_column is not None:
                busy |= {*range(product.left_column, product.left_column + K // 2)}
            if used & busy:
                raise PtxError(text)

    def _need_stored(self, what: str) -> None:
        if self.stored:
            raise PtxError(f"{what} after tcgen05.st without tcgen05.wait::st")

    # products
    def start(self, instruction: Instruction, target: int, left: int, right: int, form: int, keep: bool) -> None:
        """tcgen05.mma. `left` and `right` are descriptors, or `left` is a tensor memory address; `form` is the
        instruction's descriptor.
        """
        self._need_stored("tcgen05.mma")
        kind, transposed, columns, rows = _form(form)
        self._need_columns(target, columns)
        reads: list[Access] = []

        def matrix(bits: int, count: int, turned: bool) -> np.ndarray:
            at = row_addresses(decoded(bits, "sm_100"), count, K, 2, turned)
            return load_matrix(self.cta, at, kind, turned, instruction, reads)

        product = Product(target, columns, keep, kind, matrix(right, columns, transposed[1]), reads=reads)
        if isinstance(instruction.operands[1], Address):
            self._need_columns(left, K // 2)
            product.left_column = left
        else:
            product.left = matrix(left, rows, transposed[0])
        self.queue.append(product)

    def commit(self, barrier: int) -> None:
        """Arrive at a barrier when all products so far are done."""
        self._barrier(barrier)
        self.queue.append(barrier)

    def _run(self, product: Product) -> None:
        left = product.left
        if product.left_column is not None:
            words = self.cells[:, product.left_column : product.left_column + K // 2]
            left = widen(np.ascontiguousarray(words), product.kind).reshape(LANES, K)
        out = left @ product.right.T
        cells = self.cells[:, product.target : product.target + product.columns]
        if product.keep:
            out = out + np.ascontiguousarray(cells).view(F4)
        cells[:] = np.ascontiguousarray(out, F4).view(U4)

    # barriers
    def init_barrier(self, at: int, count: int, warps: np.ndarray, instruction: Instruction) -> None:
        access = self.cta.shared.access(np.array([at], U4), BARRIER_BYTES, warps, instruction)
        self.cta.shared.store(access, np.zeros(1, U8))
        if at in self.barriers:
            raise PtxError("an mbarrier is initialised twice")
        self.barriers[at] = Barrier(0, count, count)
        self.polled = {key for key in self.polled if key[0] != at}

    def end_barrier(self, at: int) -> None:
        self._barrier(at)
        if at in self.queue:
            raise PtxError("an mbarrier is invalidated before a commit arrives at it")
        del self.barriers[at]

    def try_wait(self, at: int, parity: int) -> bool:
        """Whether the phase of a parity is over. The first poll of a phase that is not comes back without success, as
        it may; the next one completes what the phase waits for.
        """
        barrier = self._barrier(at)
        if barrier.phase % 2 == parity and (at, barrier.phase) not in self.polled:
            self.polled.add((at, barrier.phase))
            return False
        while barrier.phase % 2 == parity:
            if not self.queue:
                raise PtxError(f"waits for ever: nothing arrives at the mbarrier at {at - self.cta.shared.base}")
            item = self.queue.pop(0)
            if isinstance(item, Product):
                self._run(item)
            else:
                self._arrive(self._barrier(item))
        return True

    def _arrive(self, barrier: Barrier) -> None:
        barrier.missing -= 1
        if not barrier.missing:
            barrier.phase, barrier.missing = barrier.phase + 1, barrier.count

    def _barrier(self, at: int) -> Barrier:
        if at not in self.barriers:
            raise PtxError(f"there is no mbarrier at {at - self.cta.shared.base}")
        return self.barriers[at]


def _form(bits: int) -> tuple[str, tuple[bool, bool], int, int]:
    """Type, whether A and B are transposed, columns and rows, of an instruction descriptor for fp32 sums."""
    left, right = bits >> 7 & 7, bits >> 10 & 7
    columns, rows = (bits >> 17 & 63) * 8, (bits >> 24 & 31) * 16
    plain = bits >> 4 & 3 == 1 and not bits & 15 and not bits >> 13 & 3
    if not plain or left != right or left not in KINDS or rows != LANES:
        raise UnsupportedPtxError(f"instruction descriptor {bits:#x}")
    return KINDS[left], (bool(bits >> 15 & 1), bool(bits >> 16 & 1)), columns, rows
