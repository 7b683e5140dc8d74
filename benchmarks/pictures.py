"""Pictures of videos: animated side by side, contact sheets, loss curves. Pillow only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

SCALE = 4  # screen pixels per video pixel
CAPTION = 16
PAUSE = 140  # milliseconds per frame


def _frame(frame: Tensor, scale: int) -> Image.Image:
    picture = Image.fromarray((frame.clamp(0, 1) * 255).round().byte().numpy())
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    canvas = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
    canvas.paste(picture, (0, CAPTION))
    ImageDraw.Draw(canvas).text((3, 2), text, fill="black")
    return canvas


def side_by_side(videos: dict[str, Tensor], file: Path) -> None:
    """Animated WebP of videos (frames, H, W, 3) in 0..1, each under its name."""
    frames = []
    for number in range(min(len(video) for video in videos.values())):
        parts = [_captioned(_frame(video[number], SCALE), name) for name, video in videos.items()]
        canvas = Image.new("RGB", (sum(p.width for p in parts) + 4 * (len(parts) - 1), parts[0].height), "white")
        left = 0
        for part in parts:
            canvas.paste(part, (left, 0))
            left += part.width + 4
        frames.append(canvas)
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=PAUSE, loop=0, quality=85)


def contact_sheet(rows: dict[str, Tensor], file: Path, scale: int = 2, every: int = 1) -> None:
    """One row of frames per video (frames, H, W, 3) in 0..1, under its caption."""
    strips = []
    for caption, video in rows.items():
        frames = [_frame(frame, scale) for frame in video[::every]]
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


def line_plot(x: list[float], y: list[float], labels: tuple[str, str], file: Path, log: bool = True) -> None:
    """A curve, with a logarithmic vertical axis by default."""
    width, height, margin = 640, 320, 48
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    values = np.log10(y) if log else np.asarray(y)
    low, high = float(values.min()), float(values.max())
    across = margin + (np.asarray(x) - x[0]) / (x[-1] - x[0]) * (width - margin - 12)
    down = height - margin + (values - low) / max(1e-9, high - low) * -(height - margin - 20)
    pen.line([(margin, 12), (margin, height - margin), (width - 8, height - margin)], fill="black")
    pen.line(list(zip(across.tolist(), down.tolist(), strict=True)), fill=(0, 90, 180), width=2)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        level, place = low + share * (high - low), x[0] + share * (x[-1] - x[0])
        top = height - margin - share * (height - margin - 20)
        pen.text((4, top - 6), f"{10**level if log else level:.3g}", fill="black")
        pen.line([(margin - 3, top), (margin, top)], fill="black")
        left = margin + share * (width - margin - 12)
        pen.text((left - 10, height - margin + 6), f"{place:,.0f}", fill="black")
    pen.text((width // 2, height - 20), labels[0], fill="black")
    pen.text((margin + 8, 4), labels[1], fill="black")
    canvas.save(file)
