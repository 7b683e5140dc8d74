"""Instructions that move data: loads, stores, asynchronous copies, matrices of shared memory, lanes of a warp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import UnsupportedPtxError
from .numbers import U2, U4, U8, UNSIGNED, extended, size_of
from .operands import Mask, Slots, Step, constant_of
from .parsing import Instruction, Operand, Register, Vector
from .shared_memory import elements_of, rows_of

if TYPE_CHECKING:
    from .cta import Cta

ROW = 16  # bytes of a row of an 8 x 8 matrix


def _space(instruction: Instruction) -> str:
    """`global` or `shared`."""
    space = instruction.parts[1].split("::")[0]
    if space not in ("global", "shared"):
        raise UnsupportedPtxError(f"memory .{space}")
    return space


def _items(operand: Operand) -> tuple[Operand, ...]:
    return operand.items if isinstance(operand, Vector) else (operand,)


def translate_ld(slots: Slots, instruction: Instruction) -> Step:
    """ld from global or shared memory, of one or several elements."""
    target, address = instruction.operands[:2]  # a cache policy may follow
    space, kind = _space(instruction), instruction.parts[-1]
    size, items = size_of(kind), _items(target)
    places = [slots.target(item, item.kind) for item in items]
    find = slots.address(address, space)

    def step(cta: Cta, mask: Mask) -> None:
        lanes = cta.lanes(mask)
        if space == "global":
            values = cta.memory.load(find(cta)[lanes], size, len(places))
        else:
            values = _load_shared(cta, find(cta)[lanes], size, len(places), lanes, instruction)
        for place, item, value in zip(places, items, values, strict=True):
            cta.set_lanes(place, extended(value, kind, item.kind), lanes)

    return step


def _load_shared(
    cta: Cta, address: np.ndarray, size: int, count: int, lanes: np.ndarray | slice, instruction: Instruction
) -> np.ndarray:
    access = cta.shared.access(address, size * count, cta.warps[lanes], instruction)
    return np.ascontiguousarray(cta.shared.load(access).view(UNSIGNED[size]).reshape(len(address), count).T)


def translate_st(slots: Slots, instruction: Instruction) -> Step:
    """st to global or shared memory, of one or several elements."""
    address, source = instruction.operands[:2]
    space, kind = _space(instruction), instruction.parts[-1]
    size = size_of(kind)
    kinds = [item.kind if isinstance(item, Register) else kind for item in _items(source)]
    places = [slots.source(item, own) for item, own in zip(_items(source), kinds, strict=True)]
    find = slots.address(address, space)

    def step(cta: Cta, mask: Mask) -> None:
        lanes = cta.lanes(mask)
        values = np.stack([cta.registers[place][lanes].astype(UNSIGNED[size], copy=False) for place in places])
        if space == "global":
            cta.memory.store(find(cta)[lanes], size, values)
            return
        access = cta.shared.access(find(cta)[lanes], size * len(places), cta.warps[lanes], instruction)
        cta.shared.store(access, np.ascontiguousarray(values.T).reshape(-1).view(UNSIGNED[access.size]))

    return step


def translate_cp(slots: Slots, instruction: Instruction) -> Step:
    """cp.async of 16 bytes, its groups and its waits. Tensor descriptors (cp.async.bulk.tensor) belong here too."""
    if instruction.op == "cp.async.commit_group":
        return lambda cta, mask: cta.copies.commit(mask)
    if instruction.op == "cp.async.wait_group":
        keep = constant_of(instruction.operands[0])
        return lambda cta, mask: cta.copies.wait(keep, mask)
    if instruction.parts[:2] != ["cp", "async"] or instruction.parts[2] not in ("cg", "ca"):
        raise UnsupportedPtxError("a copy other than cp.async")
    target, source, size, *given = instruction.operands
    if constant_of(size) != ROW:
        raise UnsupportedPtxError("cp.async of other than 16 bytes")
    to, find = slots.address(target, "shared"), slots.address(source, "global")
    have = slots.source(given[0], "u32") if given else slots.constant(ROW, "u32")

    def step(cta: Cta, mask: Mask) -> None:
        lanes = cta.lanes(mask)
        cta.copies.begin(to(cta)[lanes], find(cta)[lanes], cta.registers[have][lanes], cta.warps[lanes], instruction)

    return step


class Copies:
    """Asynchronous copies of a block. The data shows when they are waited for and not before."""

    def __init__(self, cta: Cta):
        self.cta = cta
        self.open: list[tuple] = []
        self.groups: list[list[tuple]] = []

    def begin(
        self, to: np.ndarray, source: np.ndarray, have: np.ndarray, warps: np.ndarray, instruction: Instruction
    ) -> None:
        """Copy rows, those without any bytes as zeros."""
        some = have != 0
        if (have[some] != ROW).any():
            raise UnsupportedPtxError("cp.async of part of its bytes")
        rows = np.zeros((len(to), 4), U4)
        if some.any():
            rows[some] = self.cta.memory.load(source[some], 4, 4).T
        access = self.cta.shared.access(to, ROW, warps, instruction)
        self.cta.shared.begin_copy(access)
        self.open.append((access, elements_of(rows)))

    def commit(self, mask: Mask) -> None:
        self.cta.need_all(mask)
        self.groups.append(self.open)
        self.open = []

    def wait(self, keep: int, mask: Mask) -> None:
        self.cta.need_all(mask)
        while len(self.groups) > keep:
            for access, values in self.groups.pop(0):
                self.cta.shared.end_copy(access, values)

    @property
    def pending(self) -> str:
        return "cp.async is not waited for" if self.open or any(self.groups) else ""


def translate_ldmatrix(slots: Slots, instruction: Instruction) -> Step:
    """8 x 8 matrices of 16 bits: lane 8 i + j gives the address of row j of matrix i."""
    target, address = instruction.operands
    places, find, transposed = slots.vector(target, "b32"), slots.address(address, "shared"), _transposed(instruction)

    def step(cta: Cta, mask: Mask) -> None:
        cta.need_warps(mask)
        giving = cta.matrix_lanes(len(places), mask)
        access = cta.shared.access(find(cta)[giving], ROW, cta.warps[giving], instruction)
        rows = rows_of(cta.shared.load(access)).reshape(-1, len(places), 8, 4)
        values = _turned(rows, transposed).transpose(1, 0, 2, 3).reshape(len(places), -1)
        for place, value in zip(places, values, strict=True):
            cta.set_lanes(place, value, cta.lanes(mask))

    return step


def translate_stmatrix(slots: Slots, instruction: Instruction) -> Step:
    """The way back of ldmatrix."""
    address, source = instruction.operands
    places, find, transposed = slots.vector(source, "b32"), slots.address(address, "shared"), _transposed(instruction)

    def step(cta: Cta, mask: Mask) -> None:
        cta.need_warps(mask)
        giving, lanes = cta.matrix_lanes(len(places), mask), cta.lanes(mask)
        values = np.stack([cta.registers[place][lanes] for place in places]).reshape(len(places), -1, 8, 4)
        rows = _turned(values.transpose(1, 0, 2, 3), transposed)
        access = cta.shared.access(find(cta)[giving], ROW, cta.warps[giving], instruction)
        cta.shared.store(access, elements_of(rows))

    return step


def _transposed(instruction: Instruction) -> bool:
    if "m8n8" not in instruction.parts or instruction.parts[-1] != "b16":
        raise UnsupportedPtxError("matrices of another shape")
    return "trans" in instruction.parts


def _turned(rows: np.ndarray, transposed: bool) -> np.ndarray:
    """Matrices (..., 8, 4 words), transposed as 8 x 8 of 16 bits where asked for."""
    if not transposed:
        return rows
    halves = np.ascontiguousarray(rows).view(U2)
    return np.ascontiguousarray(halves.swapaxes(-1, -2)).view(U4)


def translate_shfl(slots: Slots, instruction: Instruction) -> Step:
    """Values of other lanes of the warp."""
    target, source, lane, clamp, members = instruction.operands
    mode, number = instruction.parts[2], constant_of(lane)
    threads = np.arange(slots.threads)
    sources = {  # of each lane; the first lanes of a warp have none above and keep their own value
        "bfly": threads ^ number, "idx": threads // 32 * 32 + number,
        "up": np.where(threads % 32 >= number, threads - number, threads),
    }  # fmt: skip
    whole = 0 if mode == "up" else 31
    if mode not in sources or (constant_of(clamp), constant_of(members)) != (whole, -1):
        raise UnsupportedPtxError("shfl of part of a warp, or in another mode")
    to, own, other = slots.target(target, "b32"), slots.source(source, "b32"), sources[mode]

    def step(cta: Cta, mask: Mask) -> None:
        cta.need_warps(mask)
        cta.set(to, cta.registers[own][other], mask)

    return step


def translate_redux(slots: Slots, instruction: Instruction) -> Step:
    """redux.sync.add: the sum over a warp, in every lane."""
    target, source, members = instruction.operands
    if instruction.op not in ("redux.sync.add.s32", "redux.sync.add.u32"):
        raise UnsupportedPtxError("redux of another kind than a sum")
    to, own, lanes = slots.target(target, "b32"), slots.source(source, "b32"), slots.source(members, "b32")

    def step(cta: Cta, mask: Mask) -> None:
        cta.need_warps(mask)
        if (cta.registers[lanes] != U4(0xFFFFFFFF)).any():
            raise UnsupportedPtxError("redux of part of a warp")
        sums = cta.registers[own].reshape(-1, 32).sum(1, dtype=U4)
        cta.set(to, np.repeat(sums, 32), mask)

    return step


def translate_elect(slots: Slots, instruction: Instruction) -> Step:
    """elect.sync: the first lane of each warp."""
    lane, chosen = instruction.operands[0].items
    to, predicate = (None if lane is None else slots.target(lane, "b32")), slots.target(chosen, "pred")
    first = np.arange(slots.threads) % 32 == 0

    def step(cta: Cta, mask: Mask) -> None:
        cta.need_warps(mask)
        cta.set(predicate, first, mask)
        if to is not None:
            cta.set(to, np.zeros(cta.threads, U4), mask)

    return step


def translate_fence(slots: Slots, instruction: Instruction) -> Step:
    """fence.proxy.async: tensor cores see what was stored before."""
    if not instruction.op.startswith("fence.proxy.async"):
        raise UnsupportedPtxError("another fence")

    return lambda cta, mask: cta.shared.fence(mask)


def translate_createpolicy(slots: Slots, instruction: Instruction) -> Step:
    """A policy for caches, which this machine has none of."""
    to = slots.target(instruction.operands[0], "b64")
    return lambda cta, mask: cta.set(to, np.zeros(cta.threads, U8), mask)


TRANSLATORS = {
    "ld": translate_ld,
    "st": translate_st,
    "cp": translate_cp,
    "ldmatrix": translate_ldmatrix,
    "stmatrix": translate_stmatrix,
    "shfl": translate_shfl,
    "redux": translate_redux,
    "elect": translate_elect,
    "fence": translate_fence,
    "createpolicy": translate_createpolicy,
}
