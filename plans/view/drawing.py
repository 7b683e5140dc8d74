"""Pictures of plans and patterns, as a preview shows them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ...kernels.tiling import KEY_TILE, QUERY_TILE
from ..plan.plan import Plan, mean_density
from ..search.cost import NO_ATTENTION, plan_speedup, step_speedup
from .colours import head_cell
from .pictures import (
    GAP,
    GREY,
    INK,
    PAPER,
    TEXT,
    TITLE,
    font,
    pen,
    stack,
    text_block,
    widened,
    with_axes,
)

if TYPE_CHECKING:
    from PIL import Image

_MAP_PIXELS, _LARGEST_CELL = 640, 48
_SHOWN_DENSITIES, _SWATCH = (0.0, 0.1, 0.4, 1.0), 28


def draw_plan(plan: Plan, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE) -> np.ndarray:
    """Map of layers (down) and heads (across) for each band, coloured and marked by kind: uint8 RGB (H, W, 3).

    Densities are those of tiles of so many tokens on the plan's own grid.
    """
    densities = plan.pattern_densities(None, query_tile, key_tile)
    columns = math.ceil(math.sqrt(len(plan.bands))) if len(plan.bands) > 3 else len(plan.bands)
    pixels = _MAP_PIXELS if len(plan.bands) <= 4 else _MAP_PIXELS * 2 // 3
    cell = max(1, min(_LARGEST_CELL, pixels // max(plan.layers, plan.heads)))
    panels = [_band_panel(plan, number, densities, cell) for number in range(len(plan.bands))]
    panels = [widened(panel, max(other.width for other in panels)) for panel in panels]
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    maps = stack([stack(row, across=True) for row in rows])
    mean = mean_density(densities, (band.heads for band in plan.bands))
    return np.asarray(stack([_heading(plan, mean), maps, _legend(plan)], margin=GAP))


def _heading(plan: Plan, density: float) -> Image.Image:
    name = _one_line(plan.provenance.model or plan.family)
    grid = "x".join(str(size) for size in plan.grid)
    about = f"{plan.grade}, {plan.layers} layers of {plan.heads} heads, grid {grid} tokens"
    faster, times = plan_speedup(plan)
    expected = f"expected: attention {faster:.2f} times as fast ({times}), a whole step {step_speedup(plan):.2f} times"
    if faster >= NO_ATTENTION:
        expected = "expected: no attention is computed"
    origin = plan.provenance
    made = ", ".join(part for part in (origin.rule, origin.date, _one_line(origin.source)) if part)
    lines = [(name, TITLE, INK), (f"{about}; {made}" if made else about, TEXT, GREY)]
    return text_block([*lines, (f"mean density {density:.3f}", TEXT, INK), (expected, TEXT, INK)])


def _band_panel(plan: Plan, number: int, densities: dict[int, float], cell: int) -> Image.Image:
    from PIL import Image

    band = plan.bands[number]
    cells = {n: head_cell(plan.patterns[n].kind, density, cell) for n, density in densities.items()}
    picture = Image.fromarray(np.vstack([np.hstack([cells[n] for n in row]) for row in band.heads]))
    if cell >= 6:  # hairlines, so that single heads can be told apart
        _rule(picture, cell)
    title = text_block([(f"{band.levels()}: density {mean_density(densities, [band.heads]):.3f}", TEXT, INK)])
    return stack([title, with_axes(picture, plan.heads, plan.layers, ("head", "layer"))], gap=4)


def _rule(picture: Image.Image, cell: int) -> None:
    draw = pen(picture)
    for x in range(0, picture.width, cell):
        draw.line([(x, 0), (x, picture.height)], fill=PAPER)
    for y in range(0, picture.height, cell):
        draw.line([(0, y), (picture.width, y)], fill=PAPER)


def _legend(plan: Plan) -> Image.Image:
    """A row for each kind in use: how its heads look at some densities, its name and number of heads."""
    counts = {kind: count for kind, count in plan.counts().items() if count}
    total, gap = sum(counts.values()), 2
    rows = [_swatch_heads(gap)]
    for kind, count in counts.items():
        label = f"{kind.replace('_', ' ')}: {count} head{'s' if count > 1 else ''} ({count / total:.1%})"
        swatches = stack([_swatch(kind, density) for density in _SHOWN_DENSITIES], across=True, gap=gap)
        rows.append(stack([swatches, text_block([(label, TEXT, INK)])], across=True, gap=10))
    return stack(rows, gap=6)


def _swatch_heads(gap: int) -> Image.Image:
    """What the columns of swatches are."""
    from PIL import Image

    width = len(_SHOWN_DENSITIES) * (_SWATCH + gap) - gap
    canvas = Image.new("RGB", (width, 16), PAPER)
    for number, density in enumerate(_SHOWN_DENSITIES):
        place = number * (_SWATCH + gap) + _SWATCH / 2, 8
        pen(canvas).text(place, f"{density:g}", fill=GREY, font=font(13), anchor="mm")
    return stack([canvas, text_block([("density; the mark is the kind's", 13, GREY)])], across=True, gap=10)


def _swatch(kind: str, density: float) -> Image.Image:
    """A head of a kind; nothing but at their own densities for those that have one."""
    from PIL import Image

    own = {"dense": 1.0, "skip": 0.0}.get(kind, density)
    if density != own:
        return Image.new("RGB", (_SWATCH, _SWATCH), PAPER)
    return Image.fromarray(head_cell(kind, density, _SWATCH))


def _one_line(text: str, most: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
