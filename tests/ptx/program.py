"""A kernel made ready to run: its instructions as steps, cut into stretches without branches."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from . import arithmetic, mma, movement, tcgen05, wgmma
from .errors import UnsupportedPtxError
from .numbers import extended
from .operands import Mask, Slots, Step
from .parsing import Immediate, Instruction, Kernel, Symbol

if TYPE_CHECKING:
    from .cta import Cta

ENDS = ("bra", "ret", "exit", "bar", "barrier")
TRANSLATORS = {
    "mov": arithmetic.translate_mov,
    "bfe": arithmetic.translate_bfe,
    "prmt": arithmetic.translate_prmt,
    **movement.TRANSLATORS,
    **mma.TRANSLATORS,
    **wgmma.TRANSLATORS,
    **tcgen05.TRANSLATORS,
}


@dataclass(frozen=True)
class Exit:
    """How a stretch ends.

    Attributes:
        kind: `next`, `branch`, `barrier` or `return`.
        taken: number of the stretch that a branch goes to.
        after: number of the stretch that follows, None at the end of the kernel.
        condition: slot of a branch's predicate, None where all threads branch.
        negated: whether threads without the predicate branch.
    """

    kind: str
    after: int | None
    taken: int | None = None
    condition: int | None = None
    negated: bool = False


@dataclass(frozen=True)
class Stretch:
    """Instructions that run one after the other, with their steps; `opcodes` counts them, the exit included."""

    steps: tuple[tuple[Instruction, Step], ...]
    exit: Exit
    last: Instruction
    opcodes: Counter[str]


class Program:
    """A kernel as stretches of steps.

    Args:
        shared_base: address of the block's shared memory.

    Attributes:
        unknown: why each instruction fails that the machine does not know.
    """

    def __init__(self, kernel: Kernel, shared_base: int):
        if kernel.threads % 32:
            raise UnsupportedPtxError(f"{kernel.threads} threads are no whole warps")
        self.kernel, self.threads = kernel, kernel.threads
        self.slots = Slots(kernel.threads, shared_base)
        self.parameters = [*kernel.parameters]
        self.unknown: list[UnsupportedPtxError] = []
        code, starts = kernel.code, {0, *kernel.labels.values()}
        starts |= {number + 1 for number, instruction in enumerate(code) if instruction.parts[0] in ENDS}
        self._numbers = {start: number for number, start in enumerate(sorted(starts - {len(code)}))}
        bounds = [*self._numbers, len(code)]
        self.stretches = [self._stretch(first, end) for first, end in pairwise(bounds)]

    def _stretch(self, first: int, end: int) -> Stretch:
        body = self.kernel.code[first:end]
        after, last = self._numbers.get(end), body[-1]
        opcodes = Counter(instruction.op for instruction in body)
        leaves = Exit("next", after)
        if last.parts[0] in ENDS:
            leaves = self._exit(body.pop(), after)
        return Stretch(tuple((one, self._step(one)) for one in body), leaves, last, opcodes)

    def _exit(self, instruction: Instruction, after: int | None) -> Exit:
        kind, operands, predicate = instruction.parts[0], instruction.operands, instruction.predicate
        if kind == "bra":
            if operands[0].name not in self.kernel.labels:
                raise UnsupportedPtxError("a branch to a label of no scope around it", instruction)
            taken = self._numbers[self.kernel.labels[operands[0].name]]
            if predicate is None:
                return Exit("branch", after, taken)
            return Exit("branch", after, taken, self.slots.source(predicate.register, "pred"), predicate.negated)
        if predicate is not None:
            raise UnsupportedPtxError("a predicate that only branches may have", instruction)
        if kind in ("ret", "exit"):
            return Exit("return", None)
        whole = operands in ((Immediate(0),), (Immediate(0), Immediate(self.threads)))
        if "sync" not in instruction.parts or not whole:
            raise UnsupportedPtxError("a barrier of other than the whole block", instruction)
        return Exit("barrier", after)

    def _step(self, instruction: Instruction) -> Step:
        """The step of an instruction. What the machine does not know fails when it is reached."""
        try:
            step = self._translated(instruction)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, UnsupportedPtxError) as error:
            known = isinstance(error, UnsupportedPtxError)
            text = error.text if known else f"a form of it that is not known ({error!r})"
            self.unknown.append(UnsupportedPtxError(text, instruction))
            step = _failing(text)
        if instruction.predicate is None:
            return step
        slot = self.slots.source(instruction.predicate.register, "pred")
        return _predicated(step, slot, instruction.predicate.negated)

    def _translated(self, instruction: Instruction) -> Step:
        if instruction.op.startswith("ld.param."):
            return self._parameter(instruction)
        if instruction.op in arithmetic.RULES:
            return arithmetic.translate(self.slots, instruction)
        if instruction.parts[0] not in TRANSLATORS:
            raise UnsupportedPtxError("unknown instruction")
        return TRANSLATORS[instruction.parts[0]](self.slots, instruction)

    def _parameter(self, instruction: Instruction) -> Step:
        target, address = instruction.operands
        kind = instruction.parts[2]
        if not isinstance(address.base, Symbol) or address.base.name not in self.parameters or address.offset:
            raise UnsupportedPtxError("part of a parameter")
        number, slot = self.parameters.index(address.base.name), self.slots.target(target, target.kind)

        def step(cta: Cta, mask: Mask) -> None:
            cta.set(slot, extended(cta.parameters[number], kind, target.kind), mask)

        return step


def _failing(text: str) -> Step:
    def step(cta: Cta, mask: Mask) -> None:
        raise UnsupportedPtxError(text)

    return step


def _predicated(step: Step, slot: int, negated: bool) -> Step:
    """A step for the threads of a predicate; nothing where there are none."""

    def run(cta: Cta, mask: Mask) -> None:
        own = cta.registers[slot]
        if negated:
            own = ~own
        if mask is not None:
            own = own & mask
        if own.all():
            step(cta, None)
        elif own.any():
            step(cta, own)

    return run
