"""Pictures of videos: animated side by side, contact sheets, loss curves. Pillow only."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

SCALE = 4  # screen pixels per video pixel
CAPTION = 16
LINE = 18  # pixels of a name below a plot
PAUSE = 140  # milliseconds per frame


def _frame(frame: Tensor, scale: int) -> Image.Image:
    picture = Image.fromarray((frame.clamp(0, 1) * 255).round().byte().numpy())
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    pen, lines = ImageDraw.Draw(picture), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer) <= picture.width - 4 or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    height = CAPTION * len(lines)
    canvas = Image.new("RGB", (picture.width, picture.height + height), "white")
    canvas.paste(picture, (0, height))
    ImageDraw.Draw(canvas).text((3, 2), "\n".join(lines), fill="black", spacing=3)
    return canvas


def side_by_side(videos: dict[str, Tensor], file: Path, scale: int = SCALE) -> None:
    """Animated WebP of videos (frames, H, W, 3) in 0..1, each under its name."""
    frames = []
    for number in range(min(len(video) for video in videos.values())):
        parts = [_captioned(_frame(video[number], scale), name) for name, video in videos.items()]
        width, height = sum(p.width for p in parts) + 4 * (len(parts) - 1), max(p.height for p in parts)
        canvas = Image.new("RGB", (width, height), "white")
        left = 0
        for part in parts:
            canvas.paste(part, (left, height - part.height))
            left += part.width + 4
        frames.append(canvas)
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=PAUSE, loop=0, quality=85)


def contact_sheet(rows: dict[str, Tensor], file: Path, scale: int = 2) -> None:
    """One row of frames per video (frames, H, W, 3) in 0..1, under its caption."""
    strips = []
    for caption, video in rows.items():
        frames = [_frame(frame, scale) for frame in video]
        strip = Image.new("RGB", (sum(f.width + 2 for f in frames) - 2, frames[0].height), "white")
        for number, frame in enumerate(frames):
            strip.paste(frame, (number * (frame.width + 2), 0))
        strips.append(_captioned(strip, caption))
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height + 2 for s in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + 2
    sheet.save(file, quality=88)


def labelled_row(maps: dict[str, Tensor], file: Path) -> None:
    """Grey pictures (H, W) in 0..1, dark for 1, side by side, each under its name."""
    parts = []
    for name, values in maps.items():
        picture = Image.fromarray((255 - values.clamp(0, 1) * 255).round().byte().numpy()).convert("RGB")
        parts.append(_captioned(picture, name))
    canvas = Image.new("RGB", (sum(p.width + 8 for p in parts) - 8, max(p.height for p in parts)), "white")
    left = 0
    for part in parts:
        canvas.paste(part, (left, 0))
        left += part.width + 8
    canvas.save(file, optimize=True)


Series = dict[str, list[tuple[float, float]]]
_INKS = ((0, 90, 180), (214, 94, 0), (0, 140, 100), (150, 60, 140), (90, 90, 90))  # apart for colour-blind eyes too


def plot(
    series: Series, labels: tuple[str, str], file: Path, log: bool = False, loose: Collection[str] = ()
) -> None:
    """Points (x, y) of each series, joined in their order but for the `loose` ones; `log` makes the vertical axis
    logarithmic. The names of several series stand below the axes."""
    width, height, margin, top = 640, 340, 48, 26
    canvas = Image.new("RGB", (width, height + (LINE * len(series) + 8 if len(series) > 1 else 0)), "white")
    pen = ImageDraw.Draw(canvas)
    points = np.array([point for values in series.values() for point in values], dtype=float)
    points[:, 1] = np.log10(points[:, 1]) if log else points[:, 1]
    low, high = points.min(0), points.max(0)
    span = np.maximum(high - low, 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (np.array([x, np.log10(y) if log else y]) - low) / span
        return margin + across * (width - margin - 24), height - margin - up * (height - margin - top)

    pen.line([(margin, 12), (margin, height - margin), (width - 8, height - margin)], fill="black")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = low + share * span
        left, down = margin + share * (width - margin - 24), height - margin - share * (height - margin - top)
        pen.text((4, down - 6), f"{10**y if log else y:.3g}", fill="black")
        pen.line([(margin - 3, down), (margin, down)], fill="black")
        pen.text((left - 10, height - margin + 6), f"{x:,.0f}" if high[0] > 10 else f"{x:.2f}", fill="black")
    for number, (name, values) in enumerate(series.items()):
        ink, places = _INKS[number % len(_INKS)], [place(*value) for value in values]
        if name not in loose:
            pen.line(places, fill=ink, width=2)
        mark = (pen.ellipse, pen.rectangle)[number // len(_INKS) % 2]  # the same ink again has another shape
        for x, y in places if len(places) < 30 else ():
            mark((x - 4, y - 4, x + 4, y + 4), fill=ink)
        if len(series) > 1:
            down = height + LINE * number
            mark((margin, down + 2, margin + 7, down + 9), fill=ink)
            pen.text((margin + 14, down), name, fill=ink)
    pen.text((width // 2, height - 20), labels[0], fill="black")
    pen.text((margin + 8, 4), labels[1], fill="black")
    canvas.save(file, optimize=True)
