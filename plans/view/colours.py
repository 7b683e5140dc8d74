"""How kinds of patterns look in pictures: a colour, paler at low density, and a mark for eyes that see no hues."""

from __future__ import annotations

import math

import numpy as np

from ...kernels.patterns import PATTERNS

Colour = tuple[int, int, int]

# of Okabe and Ito's palette, which colour-blind readers can tell apart; dense and skip, the extremes, are greys
COLOURS = {
    "dense": (64, 64, 64),
    "skip": (222, 222, 222),
    "diagonal": (0, 114, 178),
    "multi_diagonal": (230, 159, 0),
    "vertical_stripe": (0, 158, 115),
    "union": (204, 121, 167),
    "routed": (213, 94, 0),
}
MARKS = {  # each like the map of attention of its kind
    "diagonal": ("#....", ".#...", "..#..", "...#.", "....#"),
    "multi_diagonal": ("..#..", "...#.", "#...#", ".#...", "..#.."),
    "vertical_stripe": ("..#..", "..#..", "..#..", "..#..", "..#.."),
    "union": ("..#..", "..#..", "#####", "..#..", "..#.."),
    "routed": ("#.#.#", ".....", "#.#.#", ".....", "#.#.#"),
}
SMALLEST_MARKED = 7  # pixels of a cell
UNSHADED = ("dense", "skip")  # kinds whose density says nothing

_OTHER_COLOURS = ((86, 180, 233), (240, 228, 66))
_PALEST = 0.25  # how much colour is left at density 0
_GREY = (120, 120, 120)


def kind_colour(kind: str) -> Colour:
    """RGB of a kind of pattern at full density."""
    others = [name for name in PATTERNS if name not in COLOURS]
    if kind in COLOURS or kind not in others:
        return COLOURS.get(kind, _GREY)
    return _OTHER_COLOURS[others.index(kind) % len(_OTHER_COLOURS)]


def shaded_colour(kind: str, density: float) -> Colour:
    """RGB of a head: its kind's colour, paler where the density is lower."""
    # the square root spreads the low densities, where most heads of a good plan are
    part = 1.0 if kind in UNSHADED else _PALEST + (1 - _PALEST) * math.sqrt(density)
    red, green, blue = (round(255 + (channel - 255) * part) for channel in kind_colour(kind))
    return red, green, blue


def head_cell(kind: str, density: float, size: int) -> np.ndarray:
    """Square of a head with its kind's mark, where there is room for one: uint8 RGB (size, size, 3)."""
    colour = shaded_colour(kind, density)
    cell: np.ndarray = np.full((size, size, 3), colour, dtype=np.uint8)
    if kind in MARKS and size >= SMALLEST_MARKED:
        mark = np.array([[sign == "#" for sign in row] for row in MARKS[kind]])
        mark = np.kron(mark, np.ones((max(1, (size - 2) // 7),) * 2, dtype=bool))
        first = (size - len(mark) + 1) // 2  # a hairline may take the first row and column
        cell[first : first + len(mark), first : first + len(mark)][mark] = ink_on(colour)
    return cell


def ink_on(colour: Colour) -> Colour:
    """Black or white, what stands out more on a colour."""
    parts = zip((0.2126, 0.7152, 0.0722), colour, strict=True)  # of light that each channel gives
    light = sum(part * (channel / 255) ** 2.2 for part, channel in parts)
    return (0, 0, 0) if light > 0.18 else (255, 255, 255)
