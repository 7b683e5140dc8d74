"""One block of threads. Each register is an array over the threads; those that diverge run lowest stretch first."""

from __future__ import annotations

import numpy as np

from .errors import PtxError, UnsupportedPtxError
from .global_memory import GlobalMemory
from .movement import Copies
from .numbers import U1, U4
from .operands import Mask, merged
from .program import Exit, Program
from .shared_memory import SharedMemory
from .tensor_memory import TensorMemory
from .wgmma import Wgmma

MAX_STRETCHES = 500_000  # a block that runs more of them runs for ever


class Cta:
    """State of a block while it runs.

    Args:
        parameters: bits of each parameter.
        place: number of the block along x and y.
        grid: blocks along x and y.
        shared: bytes of shared memory.
    """

    def __init__(
        self, program: Program, memory: GlobalMemory, parameters: list[np.unsignedinteger], place: tuple[int, int],
        grid: tuple[int, int], shared: int,
    ):  # fmt: skip
        self.program, self.memory, self.threads = program, memory, program.threads
        self.registers: list[np.ndarray | None] = [None] * len(program.slots.kinds)
        self.parameters = [np.full(self.threads, value) for value in parameters]
        thread = np.arange(self.threads, dtype=U4)
        self.warps = (thread // U4(32)).astype(U1)
        self.shared = SharedMemory(shared, program.slots.shared_base)
        self.copies, self.wgmma, self.tensor_memory = Copies(self), Wgmma(self), TensorMemory(self)
        self.visits = np.zeros(len(program.stretches), np.int64)
        self.fragments: dict[tuple, tuple] = {}  # see `mma.left_matrix`
        self.ready: dict[int, Mask] = {0: None}  # threads by the stretch that they run next
        self.waiting: dict[int, Mask] = {}  # at a barrier, by the stretch that follows it
        self.returned = 0
        self._set_constants(thread, place, grid)

    def _set_constants(self, thread: np.ndarray, place: tuple[int, int], grid: tuple[int, int]) -> None:
        for slot, value in self.program.slots.constants.items():
            self.registers[slot] = value
        known = {"tid.x": thread, "laneid": thread % U4(32), "ntid.x": self.threads}
        for axis, own, count in zip("xyz", (*place, 0), (*grid, 1), strict=True):
            known |= {f"ctaid.{axis}": own, f"nctaid.{axis}": count}
        for name, slot in self.program.slots.specials.items():
            value = known.get(name, 1 if name.startswith("ntid") else 0)  # along y and z
            self.registers[slot] = np.broadcast_to(np.asarray(value, U4), self.threads)

    # what steps use
    def lanes(self, mask: Mask) -> np.ndarray | slice:
        """Threads of a mask, as an index."""
        return slice(None) if mask is None else np.flatnonzero(mask)

    def set(self, slot: int, value: np.ndarray, mask: Mask) -> None:
        """Set a register in the threads of a mask."""
        self.registers[slot] = value if mask is None else merged(mask, value, self.registers[slot])

    def set_lanes(self, slot: int, value: np.ndarray, lanes: np.ndarray | slice) -> None:
        """Set a register from values of `lanes` alone."""
        if isinstance(lanes, slice):
            self.registers[slot] = value
            return
        old = self.registers[slot]
        new = np.full(self.threads, -1).astype(value.dtype) if old is None else old.copy()
        new[lanes] = value
        self.registers[slot] = new

    def matrix_lanes(self, count: int, mask: Mask) -> np.ndarray:
        """Threads that give the rows of `count` matrices of 8 x 8."""
        giving = np.arange(self.threads) % 32 < 8 * count
        return np.flatnonzero(giving if mask is None else giving & mask)

    def need_warps(self, mask: Mask) -> None:
        """Refuse an instruction of whole warps in part of one."""
        if mask is not None and (by_warp := mask.reshape(-1, 32)).any(1).sum() != by_warp.all(1).sum():
            raise PtxError("part of a warp executes what needs all of it")

    def need_all(self, mask: Mask) -> None:
        """Refuse part of the block where this machine does not tell threads apart."""
        if mask is not None:
            raise UnsupportedPtxError("part of a block executes what this machine knows of whole blocks")

    # running
    def run(self) -> None:
        """Run the block to its end. Raises PtxError, which names the instruction."""
        for _ in range(MAX_STRETCHES):
            if not self.ready:
                break
            number = min(self.ready)
            mask = self.ready.pop(number)
            self.visits[number] += self.threads // 32 if mask is None else mask.reshape(-1, 32).any(1).sum()
            stretch = self.program.stretches[number]
            self._run_steps(stretch.steps, mask)
            try:
                self._leave(stretch.exit, mask)
            except PtxError as error:
                error.instruction = error.instruction or stretch.last
                raise
        if self.ready:
            raise PtxError("runs for ever")
        self._finish()

    def _run_steps(self, steps: tuple, mask: Mask) -> None:
        for instruction, step in steps:
            try:
                step(self, mask)
            except PtxError as error:
                error.instruction = error.instruction or instruction
                raise
            except Exception as error:
                missing = self.program.slots.without_value(instruction.operands[1:], self.registers)
                text = f"{', '.join(missing)} without a value, or in flight" if missing else repr(error)
                raise PtxError(text, instruction) from error

    def _leave(self, leaves: Exit, mask: Mask) -> None:
        if leaves.kind == "return":
            self.returned += self.threads if mask is None else int(mask.sum())
        elif leaves.kind == "barrier":
            _join(self.waiting, leaves.after, mask)
        elif leaves.kind == "next":
            _join(self.ready, leaves.after, mask)
        else:
            self._branch(leaves, mask)
        arrived = sum(self.threads if one is None else int(one.sum()) for one in self.waiting.values())
        if self.waiting and arrived == self.threads - self.returned:
            self.shared.end_epoch([*self.wgmma.reads, *self.tensor_memory.reads])
            for number, one in self.waiting.items():
                _join(self.ready, number, one)
            self.waiting = {}

    def _branch(self, leaves: Exit, mask: Mask) -> None:
        if leaves.condition is None:
            _join(self.ready, leaves.taken, mask)
            return
        condition = self.registers[leaves.condition]
        if condition is None:
            raise PtxError("a predicate without a value")
        taken = ~condition if leaves.negated else condition
        rest = ~taken
        if mask is not None:
            taken, rest = taken & mask, rest & mask
        if taken.any():
            _join(self.ready, leaves.taken, taken if rest.any() else mask)
        if rest.any():
            _join(self.ready, leaves.after, rest if taken.any() else mask)

    def _finish(self) -> None:
        self.shared.end_epoch([])
        pending = self.copies.pending or self.wgmma.pending or self.tensor_memory.pending
        if pending:
            raise PtxError(f"{pending} at the end", self.program.kernel.code[-1])


def _join(groups: dict[int, Mask], number: int, mask: Mask) -> None:
    """Let threads go on at a stretch, with those that are there."""
    if mask is not None and number in groups:
        mask = mask | groups[number]
    groups[number] = None if mask is None or mask.all() else mask
