"""Pictures of plans and patterns, as a preview shows them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..kernels.grid import TokenGrid
from ..kernels.lists import pattern_density
from ..kernels.patterns import Pattern
from ..kernels.tiling import KEY_TILE, QUERY_TILE
from .colours import PLAIN, head_cell, kind_colour
from .cost import NO_ATTENTION, plan_speedup, step_speedup
from .plan import Band, Plan

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_INK, _GREY, _PAPER = (34, 34, 34), (120, 120, 120), (255, 255, 255)
_TEXT, _TITLE, _GAP = 16, 20, 24  # pixels
_LEFT, _BOTTOM, _TOP, _RIGHT = 72, 52, 8, 24  # pixels for ticks and labels of the axes, and room for half a tick
_MAP_PIXELS, _LARGEST_CELL = 640, 48
_PICTURE_PIXELS, _MOST_SAMPLES = 640, 2048
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
    panels = [_widened(panel, max(other.width for other in panels)) for panel in panels]
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    maps = _stack([_stack(row, across=True) for row in rows])
    mean = sum(_mean(band, densities) for band in plan.bands) / len(plan.bands)
    return np.asarray(_stack([_heading(plan, mean), maps, _legend(plan)], margin=_GAP))


def draw_pattern(
    pattern: Pattern, grid: TokenGrid, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE
) -> np.ndarray:
    """What each token (down) attends (across), both in sequence order, with a caption: uint8 RGB (H, W, 3)."""
    attended = _sampled_mask(pattern, grid, query_tile, key_tile)
    scale = max(1, _PICTURE_PIXELS // len(attended))
    ink = np.kron(attended, np.ones((scale, scale))) if scale > 1 else attended
    picture = _from_share(ink, kind_colour("dense" if pattern.kind in PLAIN else pattern.kind))
    density = pattern_density(pattern, grid, query_tile, key_tile)
    caption = _text_block(
        [
            (pattern.describe(), _TITLE, _INK),
            (f"density {density:.3f} on {grid} tokens, {pattern.order} order", _TEXT, _GREY),
        ]
    )
    framed = _with_axes(picture, grid.tokens, grid.tokens, ("key token", "query token"))
    return np.asarray(_stack([caption, framed], margin=_GAP))


def _sampled_mask(pattern: Pattern, grid: TokenGrid, query_tile: int, key_tile: int) -> np.ndarray:
    """Attended pairs of evenly spaced tokens, 0 or 1, at most _MOST_SAMPLES a side, however long the sequence."""
    tiling = pattern.tiling(grid, query_tile, key_tile)
    # a row and a column more, for what is outside full tiles and always attends and is attended
    mask = torch.nn.functional.pad(pattern.tile_mask(tiling), (0, 1, 0, 1), value=True)
    if pattern.kind == "skip":  # but for a skipped head, whose text alone attends
        mask[: -1 if grid.text_tokens else None] = False
    place = tiling.index.argsort()
    tokens = torch.linspace(0, grid.tokens - 1, min(grid.tokens, _MOST_SAMPLES)).round().long()
    row = (place[tokens] // query_tile).clamp(max=tiling.query_tiles)
    column = (place[tokens] // key_tile).clamp(max=tiling.key_tiles)
    return _as_array(mask[row][:, column])


def _as_array(mask: Tensor) -> np.ndarray:
    return mask.numpy().astype(np.float64)


def _from_share(share: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """Picture whose pixels are between paper (0) and a colour (1), shrunk by area to at most _PICTURE_PIXELS."""
    from PIL import Image

    pixels = 255 + share[..., None] * (np.array(colour) - 255.0)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    if picture.width <= _PICTURE_PIXELS:
        return picture
    return picture.resize((_PICTURE_PIXELS, _PICTURE_PIXELS), Image.Resampling.BOX)


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
    lines = [(name, _TITLE, _INK), (f"{about}; {made}" if made else about, _TEXT, _GREY)]
    return _text_block([*lines, (f"mean density {density:.3f}", _TEXT, _INK), (expected, _TEXT, _INK)])


def _band_panel(plan: Plan, number: int, densities: dict[int, float], cell: int) -> Image.Image:
    from PIL import Image

    band = plan.bands[number]
    cells = {n: head_cell(plan.patterns[n].kind, density, cell) for n, density in densities.items()}
    picture = Image.fromarray(np.vstack([np.hstack([cells[n] for n in row]) for row in band.heads]))
    if cell >= 6:  # hairlines, so that single heads can be told apart
        _rule(picture, cell)
    title = _text_block([(f"{_band_name(band)}: density {_mean(band, densities):.3f}", _TEXT, _INK)])
    return _stack([title, _with_axes(picture, plan.heads, plan.layers, ("head", "layer"))], gap=4)


def _mean(band: Band, densities: dict[int, float]) -> float:
    return sum(densities[n] for row in band.heads for n in row) / sum(len(row) for row in band.heads)


def _widened(picture: Image.Image, width: int) -> Image.Image:
    from PIL import Image

    canvas = Image.new("RGB", (width, picture.height), _PAPER)
    canvas.paste(picture, (0, 0))
    return canvas


def _band_name(band: Band) -> str:
    return f"sigma {band.sigma_high:.4g} to {band.sigma_low:.4g}"


def _rule(picture: Image.Image, cell: int) -> None:
    draw = _pen(picture)
    for x in range(0, picture.width, cell):
        draw.line([(x, 0), (x, picture.height)], fill=_PAPER)
    for y in range(0, picture.height, cell):
        draw.line([(0, y), (picture.width, y)], fill=_PAPER)


def _legend(plan: Plan) -> Image.Image:
    """A row for each kind in use: how its heads look at some densities, its name and number of heads."""
    counts = {kind: count for kind, count in plan.counts().items() if count}
    total, gap = sum(counts.values()), 2
    rows = [_swatch_heads(gap)]
    for kind, count in counts.items():
        label = f"{kind.replace('_', ' ')}: {count} head{'s' if count > 1 else ''} ({count / total:.1%})"
        swatches = _stack([_swatch(kind, density) for density in _SHOWN_DENSITIES], across=True, gap=gap)
        rows.append(_stack([swatches, _text_block([(label, _TEXT, _INK)])], across=True, gap=10))
    return _stack(rows, gap=6)


def _swatch_heads(gap: int) -> Image.Image:
    """What the columns of swatches are."""
    from PIL import Image

    width = len(_SHOWN_DENSITIES) * (_SWATCH + gap) - gap
    canvas = Image.new("RGB", (width, 16), _PAPER)
    for number, density in enumerate(_SHOWN_DENSITIES):
        place = number * (_SWATCH + gap) + _SWATCH / 2, 8
        _pen(canvas).text(place, f"{density:g}", fill=_GREY, font=_font(13), anchor="mm")
    return _stack([canvas, _text_block([("density; the mark is the kind's", 13, _GREY)])], across=True, gap=10)


def _swatch(kind: str, density: float) -> Image.Image:
    """A head of a kind; nothing but at their own densities for those that have one."""
    from PIL import Image

    own = {"dense": 1.0, "skip": 0.0}.get(kind, density)
    if density != own:
        return Image.new("RGB", (_SWATCH, _SWATCH), _PAPER)
    return Image.fromarray(head_cell(kind, density, _SWATCH))


def _with_axes(picture: Image.Image, across: int, down: int, labels: tuple[str, str]) -> Image.Image:
    """The picture with ticks from 0 for `across` columns and `down` rows, and a label on each axis."""
    from PIL import Image

    font, low = _font(13), _TOP + picture.height
    canvas = Image.new("RGB", (_LEFT + picture.width + _RIGHT, low + _BOTTOM), _PAPER)
    canvas.paste(picture, (_LEFT, _TOP))
    draw = _pen(canvas)
    draw.rectangle([_LEFT - 1, _TOP - 1, _LEFT + picture.width, low], outline=_GREY)
    for number in _ticks(across, picture.width, room=64 if across > 1000 else 40):
        x = _LEFT + (number + 0.5) * picture.width / across
        draw.line([(x, low), (x, low + 4)], fill=_GREY)
        draw.text((x, low + 6), str(number), fill=_INK, font=font, anchor="ma")
    for number in _ticks(down, picture.height, room=40):
        y = _TOP + (number + 0.5) * picture.height / down
        draw.line([(_LEFT - 5, y), (_LEFT - 1, y)], fill=_GREY)
        draw.text((_LEFT - 8, y), str(number), fill=_INK, font=font, anchor="rm")
    draw.text((_LEFT + picture.width / 2, low + 26), labels[0], fill=_INK, font=_font(_TEXT), anchor="ma")
    upright = _text_block([(labels[1], _TEXT, _INK)]).rotate(90, expand=True)
    canvas.paste(upright, (0, _TOP + (picture.height - upright.height) // 2))
    return canvas


def _ticks(count: int, pixels: int, room: int) -> range:
    """Numbers to write on an axis: 1, 2 or 5 times a power of ten apart, at least `room` pixels each."""
    least = room * count / pixels
    power = 10 ** max(0, math.floor(math.log10(max(1.0, least))))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
    return range(0, count, step)


def _text_block(lines: list[tuple[str, int, tuple[int, int, int]]]) -> Image.Image:
    """Lines of (text, size, colour) below each other."""
    from PIL import Image

    width = max(math.ceil(_font(size).getlength(text)) for text, size, _ in lines) + 2
    block = Image.new("RGB", (width, sum(size + 8 for _, size, _ in lines)), _PAPER)
    top = 0
    for text, size, colour in lines:
        _pen(block).text((0, top + (size + 8) / 2), text, fill=colour, font=_font(size), anchor="lm")
        top += size + 8
    return block


def _stack(pictures: list[Image.Image], across: bool = False, gap: int = _GAP, margin: int = 0) -> Image.Image:
    """Pictures below each other, or side by side, on paper."""
    from PIL import Image

    along, other = (0, 1) if across else (1, 0)
    size = [0, 0]
    size[along] = sum(picture.size[along] for picture in pictures) + gap * (len(pictures) - 1) + 2 * margin
    size[other] = max(picture.size[other] for picture in pictures) + 2 * margin
    canvas = Image.new("RGB", tuple(size), _PAPER)
    at = [margin, margin]
    for picture in pictures:
        canvas.paste(picture, tuple(at))
        at[along] += picture.size[along] + gap
    return canvas


def _font(size: int):  # the type is private to Pillow
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _pen(picture: Image.Image) -> ImageDraw.ImageDraw:
    from PIL import ImageDraw

    return ImageDraw.Draw(picture)


def _one_line(text: str, most: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
