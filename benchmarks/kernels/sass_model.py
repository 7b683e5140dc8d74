"""Predicts the speed of an attention kernel on a card from its machine code, without the card. It measures nothing.

The model finds the kernel's main loop, counts its instructions, and replays the loop on one multiprocessor
(`sass_replay.py`). The result is the speed on listed key tiles: the program's start and end, the dense segment, the
lists' balance, launches, DRAM and limits of power are not in it. `sass_calibration.py` compares predictions with
published speeds. Use them for ratios and for what limits a kernel, not for promises.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.kernels.sass_cards import REGISTER_PORTION, REGISTERS, SEVERAL_PROGRAMS, SHARED_RESERVED, Card
from benchmarks.kernels.sass_parsing import SPILLS, counts, disassemble, main_loop
from benchmarks.kernels.sass_replay import Replay
from benchmarks.kernels.sass_units import WARP, Tile, steps, unit_cycles


@dataclass(frozen=True)
class Compiled:
    """A kernel's machine code, and what it is launched with.

    Attributes:
        tile: what one pass of its main loop multiplies.
        shared: bytes of shared memory a program takes.
    """

    cubin: bytes
    tile: Tile
    warps: int
    shared: int


@dataclass(frozen=True)
class Counts:
    """What can be counted in the machine code, without any assumption about hardware.

    Attributes:
        registers: of a thread.
        instructions: of a warp in one pass of the main loop.
        spills, loop_spills: instructions that move registers to memory or back, in all and in the main loop.
    """

    registers: int
    instructions: int
    spills: int
    loop_spills: int


@dataclass(frozen=True)
class Prediction:
    """What the model says of a kernel on a card.

    Attributes:
        programs: on one multiprocessor at once.
        limit: the unit that one pass needs longest.
        cycles: of a multiprocessor for one pass of one program.
        tflops: 10^12 operations a second of both matrix products.
        limit_tflops: the same if the limiting unit never waited.
        products_busy: part of the cycles in which the tensor cores work.
        units: cycles that each unit needs for one pass of one program.
    """

    counts: Counts
    programs: int
    limit: str
    cycles: float
    tflops: float
    limit_tflops: float
    products_busy: float
    units: dict[str, float]


def count(kernel: Compiled) -> Counts:
    """Registers and instructions."""
    code, registers = disassemble(kernel.cubin)
    loop, whole = counts(main_loop(code)), counts(code)
    return Counts(registers, loop.total(), *(sum(found[name] for name in SPILLS) for found in (whole, loop)))


def programs_at_once(card: Card, registers: int, shared: int, warps: int) -> int:
    """How many programs a multiprocessor holds."""
    portion = -(-registers * WARP // REGISTER_PORTION) * REGISTER_PORTION
    by_shared = card.shared // (shared + SHARED_RESERVED)
    return max(1, min(REGISTERS // (portion * warps), by_shared, card.threads // (WARP * warps)))


def predict(kernel: Compiled, card: Card) -> Prediction:
    """The speed of a kernel on a card."""
    code, registers = disassemble(kernel.cubin)
    found = steps(main_loop(code), card, kernel.tile)
    programs = programs_at_once(card, registers, kernel.shared, kernel.warps)
    units = unit_cycles(found, card, kernel.warps)
    limit = max(units, key=units.__getitem__)
    cycles = Replay(found, card, kernel.warps, programs).cycles()
    if programs > 1:
        cycles /= SEVERAL_PROGRAMS
    cycles = max(cycles, units["L2"])  # the replay lets one multiprocessor have more than its share

    def tflops(taken: float) -> float:
        return card.multiprocessors * card.ghz * kernel.tile.operations / taken / 1000

    busy = units["matrix products"] / cycles
    return Prediction(count(kernel), programs, limit, cycles, tflops(cycles), tflops(units[limit]), busy, dict(units))
