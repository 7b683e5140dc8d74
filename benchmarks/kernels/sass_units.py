"""Which unit of a multiprocessor runs an instruction of SASS, for how many cycles, and how many all of a loop need.

Cycles follow from the widths in the CUDA C++ programming guide's table of throughput and from `sass_cards.py`. A unit
belongs to one of the four schedulers, except shared memory and tcgen05, which all of them share.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from benchmarks.kernels import sass_cards as hardware
from benchmarks.kernels.sass_cards import SCHEDULERS, Card
from benchmarks.kernels.sass_parsing import NEVER, Code, Instruction

WARP = 32
LINE = 128  # bytes that shared memory moves in a clock, and that 32 threads copy with 4 bytes each
MULTIPLY = ("FFMA", "FADD", "FMUL", "FFMA2", "FADD2", "FMUL2", "HFMA2", "HADD2", "HMUL2")
PAIRS = ("FFMA2", "FADD2", "FMUL2")
HALVES = ("HFMA2", "HADD2", "HMUL2")
WHOLE_PRODUCTS = ("IMAD", "IDP", "IMUL")
SPECIAL = ("MUFU", "F2I", "F2F", "FRND", "POPC", "FLO", "BREV")
LOADS = {
    "LDSM": hardware.LDMATRIX, "STSM": hardware.LDMATRIX, "LDS": hardware.SHARED, "STS": hardware.SHARED,
    "ATOMS": hardware.SHARED, "SHFL": hardware.SHUFFLE, "LDG": hardware.GLOBAL, "LD": hardware.GLOBAL,
    "STG": hardware.SHARED, "ST": hardware.SHARED, "LDL": hardware.LOCAL, "STL": hardware.LOCAL,
    "LDGSTS": hardware.ASYNC, "UTMALDG": hardware.ASYNC, "LDC": hardware.CONSTANT, "SYNCS": hardware.MBARRIER,
    "ATOM": hardware.SHARED, "ATOMG": hardware.SHARED, "RED": hardware.SHARED,
}  # fmt: skip
WHOLE = (
    "FMNMX", "FSET", "FSEL", "FCHK", "FSWZ", "ISETP", "IADD", "LEA", "LOP", "SHF", "PRMT", "SEL", "MOV", "F2FP", "I2FP",
    "IABS", "VIADD", "VIMNMX", "VABSDIFF", "IMNMX", "PLOP", "P2R", "R2P", "BMSK", "SGXT", "CS2R", "S2R", "VOTE",
    "HSET", "HMNMX", "I2IP",
)  # fmt: skip
"""How names of whole numbers, comparisons, conversions and moves start."""

MATRIX_SHAPES = {"16816": 16 * 8 * 16, "1688": 16 * 8 * 8, "16832": 16 * 8 * 32}


@dataclass(frozen=True)
class Tile:
    """What one pass of a loop multiplies: queries of a program by keys."""

    rows: int
    keys: int
    head_dim: int

    @property
    def operations(self) -> int:
        """Multiplications and additions of both matrix products."""
        return 4 * self.rows * self.keys * self.head_dim


@dataclass(frozen=True)
class Step:
    """An instruction on a unit.

    Attributes:
        cost: cycles of the unit; for `fma`, of both halves at once.
        latency: further cycles until the result is there.
        shared: cycles of shared memory that a matrix product needs for its operands.
        copied: bytes that it brings from L2; by `UTMALDG` one warp brings them for its program.
    """

    instruction: Instruction
    unit: str
    cost: float = 1
    latency: float = 0
    shared: float = 0
    copied: float = 0


def step(instruction: Instruction, card: Card, tile: Tile, copied: float) -> Step:
    """The unit and cost of an instruction; `copied` are the bytes of one `UTMALDG`."""
    base = instruction.base
    if instruction.predicate == NEVER:
        return Step(instruction, "control")
    if base in ("HMMA", "IMMA"):
        return _mma_sync(instruction, card)
    if base in ("HGMMA", "IGMMA"):
        return _wgmma(instruction, card)
    if base.startswith("UTC") and base.endswith("MMA"):
        return _tcgen05(instruction, card, tile)
    if base in SPECIAL or (base == "I2F" and card.slow_conversion):
        return Step(instruction, "special", WARP * SCHEDULERS / card.special, hardware.SPECIAL)
    if base in LOADS:
        return _load(instruction, copied)
    if base in ("LDTM", "STTM"):
        return _tensor_memory(instruction)
    return _arithmetic(instruction, card)


def _mma_sync(instruction: Instruction, card: Card) -> Step:
    shape = re.search(r"\.(\d+)(?:\.|$)", instruction.name)[1]
    rate = card.int8 if instruction.base == "IMMA" else card.fp32_sums if ".F32" in instruction.name else card.fp16_sums
    return Step(instruction, "matrix", MATRIX_SHAPES[shape] / (rate * card.mma_sync / SCHEDULERS), hardware.MATRIX)


def _wgmma(instruction: Instruction, card: Card) -> Step:
    m, n, k = map(int, re.search(r"\.(\d+)x(\d+)x(\d+)\.", instruction.name).groups())
    rate, size = (card.int8, 1) if instruction.base == "IGMMA" else (card.fp32_sums, 2)
    from_registers = re.search(r"MMA\S* R\d+, R\d+, gdesc", instruction.text)
    shared = (n * k + (0 if from_registers else m * k)) * size / LINE
    return Step(instruction, "wgmma", max(m * n * k / rate, shared), hardware.WGMMA, shared)


def _tcgen05(instruction: Instruction, card: Card, tile: Tile) -> Step:
    from_tensor_memory = re.match(r"\S*MMA\S* tmem\[", instruction.text)  # the weights, and not the queries
    size = 2 if instruction.base == "UTCHMMA" else 1
    m, n, k = min(tile.rows, 128), tile.head_dim if from_tensor_memory else tile.keys, 32 // size
    shared = (n * k + (0 if from_tensor_memory else m * k)) * size / LINE
    rate = card.fp32_sums if size == 2 else card.int8
    return Step(instruction, "tcgen05", max(m * n * k / rate, shared), hardware.TCGEN05, shared)


def _load(instruction: Instruction, copied: float) -> Step:
    name, base = instruction.name, instruction.base
    cost = width = 4 if ".128" in name else 2 if ".64" in name else 1
    if base in ("LDSM", "STSM"):
        matrices = re.search(r"88\.(\d)", name)
        cost = int(matrices[1]) if matrices else 1
    if base == "UTMALDG":  # what it brings is written to shared memory
        return Step(instruction, "shared", copied / LINE, LOADS[base], copied=copied)
    cost = {"SHFL": 1, "LDC": 0.5, "SYNCS": 1}.get(base, cost)
    return Step(instruction, "shared", cost, LOADS[base], copied=LINE * width if base == "LDGSTS" else 0)


def _tensor_memory(instruction: Instruction) -> Step:
    found = re.search(r"\.x(\d+)", instruction.name)
    columns = int(found[1]) if found else 1
    cost = columns / 2 if "16dp" in instruction.name else columns
    return Step(instruction, "tensor_memory", cost if instruction.base == "LDTM" else 2 * cost, hardware.TENSOR_MEMORY)


def _arithmetic(instruction: Instruction, card: Card) -> Step:
    base = instruction.base
    if base in MULTIPLY:
        halved = card.lanes == 64 and not (base in HALVES and ".F32" not in instruction.name)
        return Step(instruction, "fma", 2 if halved or base in PAIRS else 1)
    if base in WHOLE_PRODUCTS:
        return Step(instruction, "fma_half", 2)
    if base == "R2UR" or base.startswith(WHOLE):
        return Step(instruction, "alu", 2)
    if base.startswith("U"):
        return Step(instruction, "uniform", 1 if base == "UMOV" else 2)
    return Step(instruction, "control")


def steps(body: Code, card: Card, tile: Tile) -> list[Step | str]:
    """Steps of a loop, and its labels."""
    loads = sum(isinstance(item, Instruction) and item.base == "UTMALDG" for item in body)
    copied = 2 * 2 * tile.keys * tile.head_dim / loads if loads else 0  # keys and values of 16 bits
    return [item if isinstance(item, str) else step(item, card, tile, copied) for item in body]


def unit_cycles(found: list[Step | str], card: Card, warps: int) -> Counter[str]:
    """Cycles that each unit of a multiprocessor needs for one pass of the loop by a program."""
    each = warps / SCHEDULERS
    cycles: Counter[str] = Counter()
    for item in found:
        if isinstance(item, str):
            continue
        cycles["issue"] += each
        of_program = item.unit == "tcgen05" or item.instruction.base == "UTMALDG"
        share = 1 if of_program else each
        if item.unit in ("matrix", "wgmma", "tcgen05"):
            cycles["matrix products"] += item.cost * share
            cycles["shared memory"] += item.shared * share
        elif item.unit == "shared":
            cycles["shared memory"] += item.cost * (1 if of_program else warps)
            cycles["L2"] += item.copied * (1 if of_program else warps) / card.l2_bytes
        elif item.unit == "fma_half":
            cycles["floats"] += (2 if card.lanes == 64 else 1) * each
        elif item.unit in UNIT_NAMES:
            cycles[UNIT_NAMES[item.unit]] += item.cost * each
    return cycles


UNIT_NAMES = {
    "fma": "floats", "alu": "whole numbers", "special": "special functions", "tensor_memory": "tensor memory",
}  # fmt: skip
