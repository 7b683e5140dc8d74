"""What pictures are put together from: lines of text, axes, pictures beside each other; on paper, with Pillow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

INK, GREY, PAPER = (34, 34, 34), (120, 120, 120), (255, 255, 255)
TEXT, TITLE, GAP = 16, 20, 24  # pixels
PICTURE_PIXELS = 640  # of a map's longest side
_LEFT, _BOTTOM, _TOP, _RIGHT = 72, 52, 8, 24  # pixels for ticks and labels of the axes, and room for half a tick


def widened(picture: Image.Image, width: int) -> Image.Image:
    """The picture with paper on its right up to a width."""
    from PIL import Image

    canvas = Image.new("RGB", (width, picture.height), PAPER)
    canvas.paste(picture, (0, 0))
    return canvas


def with_axes(picture: Image.Image, across: int, down: int, labels: tuple[str, str]) -> Image.Image:
    """The picture with ticks from 0 for `across` columns and `down` rows, and a label on each axis."""
    from PIL import Image

    small, low = font(13), _TOP + picture.height
    canvas = Image.new("RGB", (_LEFT + picture.width + _RIGHT, low + _BOTTOM), PAPER)
    canvas.paste(picture, (_LEFT, _TOP))
    draw = pen(canvas)
    draw.rectangle([_LEFT - 1, _TOP - 1, _LEFT + picture.width, low], outline=GREY)
    for number in ticks(across, picture.width, room=64 if across > 1000 else 40):
        x = _LEFT + (number + 0.5) * picture.width / across
        draw.line([(x, low), (x, low + 4)], fill=GREY)
        draw.text((x, low + 6), str(number), fill=INK, font=small, anchor="ma")
    for number in ticks(down, picture.height, room=40):
        y = _TOP + (number + 0.5) * picture.height / down
        draw.line([(_LEFT - 5, y), (_LEFT - 1, y)], fill=GREY)
        draw.text((_LEFT - 8, y), str(number), fill=INK, font=small, anchor="rm")
    draw.text((_LEFT + picture.width / 2, low + 26), labels[0], fill=INK, font=font(TEXT), anchor="ma")
    upright = text_block([(labels[1], TEXT, INK)]).rotate(90, expand=True)
    canvas.paste(upright, (0, _TOP + (picture.height - upright.height) // 2))
    return canvas


def ticks(count: int, pixels: int, room: int) -> range:
    """Numbers to write on an axis: 1, 2 or 5 times a power of ten apart, at least `room` pixels each."""
    least = room * count / pixels
    power = 10 ** max(0, math.floor(math.log10(max(1.0, least))))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
    return range(0, count, step)


def text_block(lines: list[tuple[str, int, tuple[int, int, int]]]) -> Image.Image:
    """Lines of (text, size, colour) below each other."""
    from PIL import Image

    width = max(math.ceil(font(size).getlength(text)) for text, size, _ in lines) + 2
    block = Image.new("RGB", (width, sum(size + 8 for _, size, _ in lines)), PAPER)
    top = 0
    for text, size, colour in lines:
        pen(block).text((0, top + (size + 8) / 2), text, fill=colour, font=font(size), anchor="lm")
        top += size + 8
    return block


def stack(pictures: list[Image.Image], across: bool = False, gap: int = GAP, margin: int = 0) -> Image.Image:
    """Pictures below each other, or side by side, on paper."""
    from PIL import Image

    along, other = (0, 1) if across else (1, 0)
    size = [0, 0]
    size[along] = sum(picture.size[along] for picture in pictures) + gap * (len(pictures) - 1) + 2 * margin
    size[other] = max(picture.size[other] for picture in pictures) + 2 * margin
    canvas = Image.new("RGB", tuple(size), PAPER)
    at = [margin, margin]
    for picture in pictures:
        canvas.paste(picture, tuple(at))
        at[along] += picture.size[along] + gap
    return canvas


def font(size: int):  # the type is private to Pillow
    """Pillow's own font of a size in pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def pen(picture: Image.Image) -> ImageDraw.ImageDraw:
    """What draws on a picture."""
    from PIL import ImageDraw

    return ImageDraw.Draw(picture)


def from_share(share: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """Picture whose pixels are between paper (0) and a colour (1), shrunk by area to at most PICTURE_PIXELS."""
    from PIL import Image

    pixels = 255 + share[..., None] * (np.array(colour) - 255.0)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    if picture.width <= PICTURE_PIXELS:
        return picture
    return picture.resize((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.BOX)
