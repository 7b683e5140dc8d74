"""Runs the grid of a launch, one block after the other."""

from __future__ import annotations

import numpy as np

from .cta import Cta
from .errors import PtxError
from .global_memory import GlobalMemory
from .numbers import F4, U4, UNSIGNED, size_of
from .program import Program

Values = list[int | float]


class Machine:
    """Executes launches.

    Attributes:
        visits: warps that ran each stretch, by program, over all launches.
        blocks: numbers of the blocks to run, None for all.
    """

    def __init__(self) -> None:
        self.visits: dict[Program, np.ndarray] = {}
        self.blocks: set[tuple[int, int]] | None = None

    def launch(
        self, program: Program, memory: GlobalMemory, grid: tuple[int, int], values: Values, shared: int
    ) -> None:
        """Run a grid of blocks. Raises PtxError, which names kernel, block, line and instruction."""
        kinds = program.kernel.parameters.values()
        bits = [_bits(value, kind) for value, kind in zip(values, kinds, strict=True)]
        visits = self.visits.setdefault(program, np.zeros(len(program.stretches), np.int64))
        with np.errstate(all="ignore"):
            for number, place in enumerate((x, y) for y in range(grid[1]) for x in range(grid[0])):
                if self.blocks is not None and place not in self.blocks:
                    continue
                memory.block = number
                cta = Cta(program, memory, bits, place, grid, shared)
                try:
                    cta.run()
                except PtxError as error:
                    error.place = f"{program.kernel.name}, block {place} of {grid}: "
                    raise
                visits += cta.visits


def _bits(value: int | float, kind: str) -> np.unsignedinteger:
    """Bits of a parameter."""
    if kind == "f32":
        return np.array(value, F4).view(U4)[()]
    size = size_of(kind)
    return UNSIGNED[size](int(value) % 2 ** (8 * size))
