"""Pictures of how two videos differ: a heat map of each frame, and PSNR, SSIM and flicker over the frames.

Videos are gone through frame by frame: beside them and the one that `side_by_side` makes, no more than ten frames in
float32 are in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .metrics import flicker, psnr, ssim
from .pictures import GAP, GREY, INK, PAPER, TEXT, font, pen, stack, text_block, ticks

if TYPE_CHECKING:
    from PIL import Image

HEAT = ((0, 0, 0), (0, 114, 178), (230, 159, 0), (255, 255, 255))
"""Colours of no difference up to the largest, rising in lightness: of Okabe and Ito's palette."""

_WIDTH, _HEIGHT = 720, 150  # pixels of a plot
_PLOT_LEFT, _PLOT_BOTTOM = 84, 40  # pixels for the numbers on its axes
_LINE = (0, 114, 178)


@dataclass(frozen=True)
class Comparison:
    """Measures of two videos, float64: psnr in dB and ssim (frames,), flicker (frames - 1,)."""

    psnr: Tensor
    ssim: Tensor
    flicker: Tensor


def compare(reference: Tensor, video: Tensor, each: Callable[[], None] = lambda: None) -> Comparison:
    """Measures of videos (frames, H, W, C) of one shape, values in 0..1; `each` is called for each frame, and may
    raise."""
    return Comparison(psnr(reference, video), ssim(reference, video, each), flicker(reference, video))


def side_by_side(reference: Tensor, video: Tensor, gain: float) -> Tensor:
    """Videos (frames, H, W, 3) and the heat map of their difference: (frames, H, 3 W, 3)."""
    frames, height, width, channels = reference.shape
    shown = torch.empty(
        (frames, height, 3 * width, channels), dtype=torch.result_type(reference, video), device=reference.device
    )
    for one, other, both in zip(reference, video, shown, strict=True):
        both.copy_(torch.cat([one, other, heat_map(one, other, gain)], 1))
    return shown


def heat_map(reference: Tensor, video: Tensor, gain: float) -> Tensor:
    """Mean absolute difference of the channels of frames (..., 3), times `gain`, in the colours of HEAT."""
    share = ((reference - video).abs().mean(-1) * gain).clamp(0, 1)
    colours = torch.tensor(HEAT, dtype=reference.dtype, device=reference.device) / 255
    place = share * (len(HEAT) - 1)
    low = place.floor().long().clamp(max=len(HEAT) - 2)
    part = (place - low)[..., None]
    return colours[low] * (1 - part) + colours[low + 1] * part


def draw_comparison(found: Comparison) -> np.ndarray:
    """A plot of each measure over the frames: uint8 RGB (H, W, 3)."""
    plots = [
        _plot("PSNR, dB (higher is closer; a gap is a frame without a difference)", found.psnr.tolist(), 0),
        _plot("SSIM (1 is the same)", found.ssim.tolist(), 0),
        _plot("flicker against the reference (0 is none), from each frame to the next", found.flicker.tolist(), 1),
    ]
    return np.asarray(stack(plots, margin=GAP))


def _plot(title: str, values: Sequence[float], first: int) -> Image.Image:
    """A line through the finite values, the first of them at frame number `first`."""
    from PIL import Image

    canvas = Image.new("RGB", (_PLOT_LEFT + _WIDTH + 8, _HEIGHT + _PLOT_BOTTOM), PAPER)
    draw = pen(canvas)
    low, high = _axis_ends([value for value in values if math.isfinite(value)])
    last = first + max(1, len(values) - 1)

    def place(frame: int, value: float) -> tuple[float, float]:
        return _PLOT_LEFT + (frame - first) * _WIDTH / (last - first), _HEIGHT - (value - low) / (high - low) * _HEIGHT

    draw.rectangle([_PLOT_LEFT, 0, _PLOT_LEFT + _WIDTH, _HEIGHT], outline=GREY)
    for value in (low, (low + high) / 2, high):
        y = min(max(place(first, value)[1], 8), _HEIGHT - 8)
        draw.text((_PLOT_LEFT - 8, y), f"{value:.4g}", fill=INK, font=font(13), anchor="rm")
    for frame in ticks(last + 1, _WIDTH, room=40):
        if frame >= first:
            draw.text((place(frame, low)[0], _HEIGHT + 6), str(frame), fill=INK, font=font(13), anchor="ma")
    draw.text((_PLOT_LEFT + _WIDTH / 2, _HEIGHT + 22), "frame", fill=GREY, font=font(13), anchor="ma")
    for points in _runs(values):
        line = [place(first + number, values[number]) for number in points]
        draw.line(line, fill=_LINE, width=2)
        for x, y in line:
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=_LINE)
    return stack([text_block([(title, TEXT, INK)]), canvas], gap=4)


def _axis_ends(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that all values lie on; a little apart where they are alike."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = max(high - low, 1e-3 * max(abs(high), 1e-3)) * 0.08
    return low - room, high + room


def _runs(values: Sequence[float]) -> list[list[int]]:
    """Numbers of finite values, neighbours together."""
    runs: list[list[int]] = []
    for number, value in enumerate(values):
        if not math.isfinite(value):
            continue
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
