"""tcgen05 and mbarrier of sm_100: instructions that use tensor memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import PtxError, UnsupportedPtxError
from .numbers import U4
from .operands import Mask, Slots, Step, constant_of
from .parsing import Address, Instruction
from .tensor_memory import BARRIER_BYTES

if TYPE_CHECKING:
    from .cta import Cta


def _only_thread(cta: Cta, mask: Mask) -> int:
    """The thread of an instruction that one thread executes."""
    threads = np.arange(cta.threads) if mask is None else np.flatnonzero(mask)
    if len(threads) != 1:
        raise PtxError(f"{len(threads)} threads execute what one has to")
    return int(threads[0])


def translate_mbarrier(slots: Slots, instruction: Instruction) -> Step:
    """mbarrier.init, .inval and .try_wait.parity."""
    what, operands = instruction.parts[1], instruction.operands
    if what == "try_wait" and "parity" in instruction.parts:
        return _try_wait(slots, instruction)
    find = slots.address(operands[0], "shared")
    if what == "inval":
        return lambda cta, mask: cta.tensor_memory.end_barrier(int(find(cta)[_only_thread(cta, mask)]))
    if what != "init":
        raise UnsupportedPtxError("another mbarrier instruction")
    count = constant_of(operands[1])

    def step(cta: Cta, mask: Mask) -> None:
        thread = _only_thread(cta, mask)
        cta.tensor_memory.init_barrier(int(find(cta)[thread]), count, cta.warps[thread : thread + 1], instruction)

    return step


def _try_wait(slots: Slots, instruction: Instruction) -> Step:
    target, address, parity = instruction.operands
    to, find, wanted = slots.target(target, "pred"), slots.address(address, "shared"), slots.source(parity, "u32")

    def step(cta: Cta, mask: Mask) -> None:
        lanes = np.arange(cta.threads)[cta.lanes(mask)]
        asked = np.stack([find(cta)[lanes], cta.registers[wanted][lanes]])
        done = np.zeros(cta.threads, bool)
        for at, number in np.unique(asked, axis=1).T:
            same = lanes[(asked == [[at], [number]]).all(0)]
            asking = cta.warps[same[:1]]
            cta.shared.load(cta.shared.access(np.array([at], U4), BARRIER_BYTES, asking, instruction))
            done[same] = cta.tensor_memory.try_wait(int(at), int(number))
        cta.set(to, done, mask)

    return step


def translate_tcgen05(slots: Slots, instruction: Instruction) -> Step:
    """All of tcgen05 that Triton writes for one block."""
    what, operands = instruction.parts[1], instruction.operands
    if what in ("wait::ld", "wait::st"):
        return lambda cta, mask: cta.tensor_memory.wait(what[-2:], mask)
    if what == "relinquish_alloc_permit":
        return lambda cta, mask: None
    if what in ("ld", "st"):
        return _transfer(slots, instruction)
    if what == "mma":
        return _product(slots, instruction)
    if what == "commit":
        find = slots.address(operands[0], "shared")
        return lambda cta, mask: cta.tensor_memory.commit(int(find(cta)[_only_thread(cta, mask)]))
    if what not in ("alloc", "dealloc"):
        raise UnsupportedPtxError("another tcgen05 instruction")
    columns = constant_of(operands[1])
    if what == "alloc":
        find = slots.address(operands[0], "shared")
        return lambda cta, mask: cta.tensor_memory.allocate(find(cta), columns, mask, instruction)
    own = slots.source(operands[0], "b32")
    return lambda cta, mask: cta.tensor_memory.free(cta.registers[own], columns, mask)


def _transfer(slots: Slots, instruction: Instruction) -> Step:
    """tcgen05.ld (registers, address, ...) or .st (address, ..., registers); `...` is the second half's column."""
    loads, operands = instruction.parts[1] == "ld", instruction.operands
    values, address, second = operands[0], operands[1], operands[2:]
    if not loads:
        values, address, second = operands[-1], operands[0], operands[1:-1]
    places, find, shape = slots.vector(values, "b32"), slots.address(address, "shared"), instruction.parts[4]
    offset = constant_of(second[0]) if second else 0
    name = "load" if loads else "store"
    return lambda cta, mask: getattr(cta.tensor_memory, name)(shape, find(cta), offset, places, mask)


def _product(slots: Slots, instruction: Instruction) -> Step:
    target, left, right, form, keep = instruction.operands
    if instruction.parts[2:] != ["cta_group::1", "kind::f16"]:
        raise UnsupportedPtxError("tcgen05.mma of another kind")
    in_memory = isinstance(left, Address)
    find = slots.address(target, "shared")
    find_left = slots.address(left, "shared") if in_memory else None
    own = None if in_memory else slots.source(left, "b64")
    other, word, kept = slots.source(right, "b64"), slots.source(form, "b32"), slots.source(keep, "pred")

    def step(cta: Cta, mask: Mask) -> None:
        thread, registers = _only_thread(cta, mask), cta.registers
        first = find_left(cta)[thread] if in_memory else registers[own][thread]
        numbers = (find(cta)[thread], first, registers[other][thread], registers[word][thread])
        cta.tensor_memory.start(instruction, *(int(number) for number in numbers), bool(registers[kept][thread]))

    return step


TRANSLATORS = {"tcgen05": translate_tcgen05, "mbarrier": translate_mbarrier}
