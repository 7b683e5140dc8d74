"""Reads PTX as Triton writes it: entries with their parameters, registers, labels and instructions."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import PtxError, UnsupportedPtxError

SPECIAL = re.compile(r"%(tid|ntid|ctaid|nctaid)\.[xyz]$|%laneid$")
IGNORED = (".pragma", ".loc", ".file")
ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)([^{;]*)\{", re.S)
PARAMETER = re.compile(r"\.param\s+\.(\w+)(?:\s+\.\w+(?:\s+\d+)?)*\s+([\w$]+)")


@dataclass(frozen=True)
class Register:
    """A virtual register; `kind` is its type as declared, such as `b32`."""

    name: str
    kind: str


@dataclass(frozen=True)
class Special:
    """A read-only register of the hardware, such as `tid.x`."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A constant: a whole number, or the bits of an fp32."""

    value: int


@dataclass(frozen=True)
class Symbol:
    """A label, a parameter or the array in shared memory."""

    name: str


@dataclass(frozen=True)
class Vector:
    """Operands in braces, or the pair of `a|b`. An item is None where PTX has `_`."""

    items: tuple[Operand | None, ...]


@dataclass(frozen=True)
class Address:
    """Operand in brackets."""

    base: Operand
    offset: int


Operand = Register | Special | Immediate | Symbol | Vector | Address


@dataclass(frozen=True)
class Predicate:
    """Lanes that execute an instruction."""

    register: Register
    negated: bool


@dataclass(frozen=True)
class Instruction:
    """One instruction; `line` and `text` are for messages."""

    op: str
    operands: tuple[Operand, ...]
    predicate: Predicate | None
    line: int
    text: str

    @property
    def parts(self) -> list[str]:
        """The opcode and its modifiers."""
        return self.op.split(".")


@dataclass
class Kernel:
    """One entry of a module.

    Attributes:
        target: architecture, such as `sm_90a`.
        parameters: type by name, in order.
        threads: of a block, as `.reqntid` says.
        labels: number of the instruction that follows each label.
    """

    name: str
    target: str
    parameters: dict[str, str]
    threads: int
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(ptx: str) -> dict[str, Kernel]:
    """Entries of a module by name. Raises UnsupportedPtxError for what Triton does not write."""
    ptx = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), ptx, flags=re.S)
    ptx = re.sub(r"//[^\n]*", "", ptx)
    target = re.search(r"^\s*\.target\s+(\w+)", ptx, re.M)
    kernels = {}
    for found in ENTRY.finditer(ptx):
        threads = re.search(r"\.reqntid\s+(\d+)\s*(,\s*1\s*)*($|\.maxnreg\s+\d+$)", found[3].strip())
        if target is None or threads is None:
            raise UnsupportedPtxError(f"{found[1]} has no .target or no .reqntid along x alone")
        parameters = {name: kind for kind, name in PARAMETER.findall(found[2])}
        kernel = Kernel(found[1], target[1], parameters, int(threads[1]))
        _Body(kernel).read(ptx, found.end())
        kernels[kernel.name] = kernel
    return kernels


class _Body:
    """Reads the instructions of one entry. Names in inner scopes get the scope's number."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.counted: dict[str, str] = {}  # prefix of numbered registers -> type
        self.scopes: list[tuple[int, dict[str, str]]] = [(0, {})]
        self.opened = 0

    def read(self, ptx: str, start: int) -> None:
        for text, line in _statements(ptx, start):
            if text == "{":
                self.opened += 1
                self.scopes.append((self.opened, {}))
            elif text == "}":
                self.scopes.pop()
                if not self.scopes:
                    return
            elif text.endswith(":"):
                self.kernel.labels[self._label(text[:-1])] = len(self.kernel.code)
            elif text.startswith(".reg"):
                self._declare(text, line)
            elif not text.startswith(IGNORED):
                self.kernel.code.append(self._instruction(text, line))
        raise PtxError(f"{self.kernel.name} has no end")

    def _declare(self, text: str, line: int) -> None:
        found = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.+)", text, re.S)
        if found is None:
            raise UnsupportedPtxError(f"line {line}: {text}")
        number, names = self.scopes[-1]
        for name in found[2].split(","):
            counted = re.fullmatch(r"(%?[A-Za-z_]+)<\d+>", name.strip())
            if counted and not number:
                self.counted[counted[1]] = found[1]
            elif counted:
                raise UnsupportedPtxError(f"line {line}: numbered registers in an inner scope: {text}")
            else:
                names[name.strip()] = found[1]

    def _label(self, name: str) -> str:
        """The name that a label has in the whole entry. Inner scopes branch to labels of their own or to `$...`."""
        number = self.scopes[-1][0]
        return f"{name}@{number}" if number and not name.startswith("$") else name

    def _instruction(self, text: str, line: int) -> Instruction:
        text = " ".join(text.split())
        found = re.fullmatch(r"(?:@(!?)(%?[\w$]+) )?([a-z][\w.:]*)(?: (.*))?", text)
        if found is None:
            raise UnsupportedPtxError(f"line {line}: {text}")
        try:
            predicate = None if found[2] is None else Predicate(self._operand(found[2]), bool(found[1]))
            operands = tuple(self._operand(part) for part in _split(found[4] or ""))
        except UnsupportedPtxError as error:
            raise UnsupportedPtxError(f"line {line}: {text}: {error.text}") from None
        if found[3].startswith("bra"):
            operands = (Symbol(self._label(operands[0].name)),)
        return Instruction(found[3], operands, predicate, line, text)

    def _operand(self, text: str) -> Operand | None:
        text = text.strip()
        if text == "_":
            return None
        if text.startswith("{"):
            return Vector(tuple(self._operand(part) for part in _split(text[1:-1])))
        if text.startswith("["):
            found = re.fullmatch(r"\[\s*(%?[\w$]+)\s*(?:\+\s*(-?\w+))?\s*\]", text)
            if found is None:
                raise UnsupportedPtxError(f"address {text}")
            return Address(self._operand(found[1]), int(found[2] or "0", 0))
        if "|" in text:
            return Vector(tuple(self._operand(part) for part in text.split("|")))
        if re.fullmatch(r"0[fF][0-9A-Fa-f]{8}", text):
            return Immediate(int(text[2:], 16))
        if re.fullmatch(r"-?(0[xX][0-9A-Fa-f]+|\d+)U?", text):
            return Immediate(int(text.rstrip("U"), 0))
        if re.fullmatch(r"-?\d+\.\d+", text):
            return Immediate(int.from_bytes(struct.pack("<f", float(text)), "little"))
        return Special(text[1:]) if SPECIAL.match(text) else self._named(text)

    def _named(self, text: str) -> Register | Symbol:
        for number, names in reversed(self.scopes):
            if text in names:
                return Register(f"{text}@{number}", names[text])
        prefix = re.fullmatch(r"(%?[A-Za-z_]+)\d+", text)
        if prefix and prefix[1] in self.counted:
            return Register(text, self.counted[prefix[1]])
        if text.startswith("%") or not re.fullmatch(r"[\w$]+", text):
            raise UnsupportedPtxError(f"operand {text}")
        return Symbol(text)


def _statements(ptx: str, start: int) -> Iterator[tuple[str, int]]:
    """Braces of scopes, labels with their colon and statements without their semicolon, with the line of each."""
    pattern = re.compile(r"\s*([{}]|[\w$]+:(?!:)|[^;]+;)", re.S)
    line, counted = ptx.count("\n", 0, start) + 1, start
    while found := pattern.match(ptx, start):
        line += ptx.count("\n", counted, found.start(1))
        counted = found.start(1)
        yield found[1].rstrip(";").strip(), line
        start = found.end()


def _split(text: str) -> list[str]:
    """Operands apart: at commas outside brackets and braces."""
    return [part for part in re.split(r",(?![^{\[]*[}\]])", text) if part.strip()]
