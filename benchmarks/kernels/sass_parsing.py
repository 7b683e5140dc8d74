"""Reads SASS, the machine code of NVIDIA's cards: instructions with their control codes, and a kernel's main loop."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

MATRIX = re.compile(r"^(HMMA|IMMA|HGMMA|IGMMA|UTC\w*MMA)")
SPILLS = ("LDL", "STL")
NEVER = "@!PT"  # the predicate of instructions that only wait
_CODE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);\s+/\* 0x[0-9a-f]{16} \*/")
_CONTROL = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")
_LABEL = re.compile(r"^(\.L_\w+):")
_PREDICATED = re.compile(r"^(@!?U?P\w+)\s+(.*)")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        text: without its predicate.
        predicate: with its `@`, or nothing.
        stall: cycles until the warp may issue again, as the compiler wrote them.
        keep: the scheduler stays with the warp if it can.
        sets_done, sets_read: the scoreboard (0 to 5) that holds until the result is there, or until the operands were
            read; 7 for none.
        waits: scoreboards that must be free before.
    """

    text: str
    predicate: str
    stall: int
    keep: bool
    sets_done: int
    sets_read: int
    waits: tuple[int, ...]

    @property
    def name(self) -> str:
        """With its modifiers, as `LDG.E.128`."""
        return self.text.split()[0]

    @property
    def base(self) -> str:
        """Without them."""
        return self.name.split(".")[0]

    @property
    def target(self) -> str | None:
        """Label that a branch jumps to."""
        found = re.search(r"\((\.L_\w+)\)", self.text) if self.base == "BRA" else None
        return found[1] if found else None


Code = list[Instruction | str]
"""Instructions, and labels as text."""


def tool(name: str) -> Path:
    """A program of NVIDIA's that Triton's wheel brings."""
    found = importlib.util.find_spec("triton")
    if found is None:
        raise RuntimeError("Triton is not installed, whose wheel has NVIDIA's assembler")
    return Path(found.origin).parent / "backends" / "nvidia" / "bin" / name


def assemble(ptx: bytes, arch: str) -> bytes:
    """Machine code of PTX, with the options that Triton gives the assembler.

    A user's driver has an assembler of its own, so registers and order may differ there.
    """
    number = int(arch.removeprefix("sm_"))
    name = f"sm_{number}{'a' * (number >= 90)}"
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_bytes(ptx)
        program = tool("ptxas-blackwell" if number >= 100 else "ptxas")
        command = [program, "--regAllocOptLevel=2", f"--gpu-name={name}", source, "-o", result]
        subprocess.run(command, check=True, capture_output=True)
        return result.read_bytes()


def disassemble(cubin: bytes) -> tuple[Code, int]:
    """Instructions of a kernel, and its registers."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        commands = ([tool("nvdisasm"), "-c", "-hex", file], [tool("cuobjdump"), "-res-usage", file])
        text, usage = (subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)
    return parse(text), int(re.search(r"REG:(\d+)", usage)[1])


def parse(text: str) -> Code:
    """What `nvdisasm -c -hex` prints. Each instruction has a second line with the half that holds its control codes."""
    code: Code = []
    pending = None
    for line in text.splitlines():
        if found := _LABEL.match(line):
            code.append(found[1])
        elif found := _CODE.match(line):
            pending = found[2].strip()
        elif pending and (found := _CONTROL.match(line)):
            code.append(_instruction(pending, int(found[1], 16) >> 41))
            pending = None
    return code


def _instruction(text: str, control: int) -> Instruction:
    # 4 bits of stall, 1 of yield, 3 and 3 of the scoreboards it sets, 6 of those it waits for (arXiv 1804.06826)
    found = _PREDICATED.match(text)
    predicate, text = found.groups() if found else ("", text)
    waits = tuple(number for number in range(6) if control >> (11 + number) & 1)
    return Instruction(
        text, predicate, control & 15, bool(control >> 4 & 1), control >> 5 & 7, control >> 8 & 7, waits
    )  # fmt: skip


def instructions(code: Code) -> list[Instruction]:
    """Without labels."""
    return [item for item in code if isinstance(item, Instruction)]


def loops(code: Code) -> list[Code]:
    """Bodies of all backward branches, from the label to the branch."""
    places = {item: place for place, item in enumerate(code) if isinstance(item, str)}
    bodies = []
    for place, item in enumerate(code):
        start = places.get(item.target, place) if isinstance(item, Instruction) else place
        body = code[start : place + 1]
        # waits that lie behind the end of the kernel jump back too, and are no loops
        if start < place and not any(item.base == "EXIT" for item in instructions(body)):
            bodies.append(body)
    return bodies


def matrix_products(code: Code) -> int:
    """How many instructions of the tensor cores there are."""
    return sum(bool(MATRIX.match(item.base)) for item in instructions(code))


def main_loop(code: Code) -> Code:
    """Body of the innermost loop with the most matrix products; the later one of two alike.

    Raises:
        ValueError: no loop has matrix products.
    """
    bodies = [body for body in loops(code) if matrix_products(body)]
    inner = [body for body in bodies if not any(other is not body and _contains(body, other) for other in bodies)]
    if not inner:
        raise ValueError("the kernel has no loop with matrix products")
    return max(reversed(inner), key=matrix_products)


def _contains(body: Code, other: Code) -> bool:
    return len(other) < len(body) and any(item is other[0] for item in body)


def counts(code: Code) -> Counter[str]:
    """Instructions by their name without modifiers."""
    return Counter(item.base for item in instructions(code))
