"""How many instructions an attention kernel takes for one key tile, by what they use."""

from __future__ import annotations

from collections import Counter

from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Dense
from sparse_vdit.kernels.tiling import KEY_TILE

from .cases import ATTENTION, Case, run
from .machine import Machine

FEW, MANY = TokenGrid(4, 8, 8), TokenGrid(8, 8, 8)  # no text, full tiles alone
CLASSES = {  # of opcodes, by how they start; the first that fits counts
    "matrix products": ("mma.", "wgmma.mma_async", "tcgen05.mma"),
    "shared memory": ("ldmatrix", "stmatrix", "ld.shared", "st.shared"),
    "tensor memory": ("tcgen05.ld", "tcgen05.st"),
    "copies": ("cp.async.ca", "cp.async.cg"),
    "global memory": ("ld.global", "st.global"),
    "exponentials": ("ex2",),
    "conversions": ("cvt",),
    "shuffles": ("shfl", "redux"),
    "waits": ("bar", "cp.async.", "wgmma", "tcgen05", "fence", "mbarrier", "elect"),
    "moves": ("mov",),
    "branches": ("bra", "ret"),
}
FLOATS, OTHERS = "floats", "whole numbers"
ORDER = (*list(CLASSES)[:6], FLOATS, *list(CLASSES)[6:], OTHERS)


def class_of(opcode: str) -> str:
    """What an opcode uses."""
    for name, starts in CLASSES.items():
        if opcode.startswith(starts):
            return name
    return FLOATS if opcode.endswith((".f32", ".f32x2")) and not opcode.startswith("setp") else OTHERS


def per_key_tile(file: str) -> dict[str, float]:
    """Instructions of a warp of the first block for each listed key tile, by class: what more tiles add."""
    few, many = (_counts(file, grid) for grid in (FEW, MANY))
    tiles = (MANY.tokens - FEW.tokens) // KEY_TILE
    found: Counter[str] = Counter()
    for opcode in many:
        found[class_of(opcode)] += (many[opcode] - few[opcode]) / tiles
    return {name: round(found[name], 2) for name in ORDER if found[name]}


def _counts(file: str, grid: TokenGrid) -> Counter[str]:
    """Instructions by opcode, of one warp."""
    machine = Machine()
    machine.blocks = {(0, 0)}
    run(Case(grid, (Dense(),)), file, machine)
    ((program, visits),) = [item for item in machine.visits.items() if item[0].kernel.name == ATTENTION]
    total: Counter[str] = Counter()
    for stretch, warps in zip(program.stretches, visits.tolist(), strict=True):
        for opcode, count in stretch.opcodes.items():
            total[opcode] += count * warps
    return Counter({opcode: count / (program.threads // 32) for opcode, count in total.items()})
