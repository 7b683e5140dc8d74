"""What a program must not do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .parsing import Instruction


class PtxError(Exception):
    """A violation. The message names the kernel, the line and the instruction once they are known.

    Attributes:
        text: what is wrong.
        instruction: where. None until the machine fills it in.
        place: kernel and block, filled in by the machine.
    """

    def __init__(self, text: str, instruction: Instruction | None = None):
        super().__init__(text)
        self.text, self.instruction, self.place = text, instruction, ""

    def __str__(self) -> str:
        where = "" if self.instruction is None else f"line {self.instruction.line}: {self.instruction.text}: "
        return f"{self.place}{where}{self.text}"


class UnsupportedPtxError(PtxError):
    """An instruction, or a form of it, that this machine does not know."""
