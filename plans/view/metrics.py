"""How alike two videos are: PSNR and SSIM of frames, flicker between them, in torch alone.

Videos are gone through frame by frame: beside them, no more than ten frames in float32 are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

# Wang, Bovik, Sheikh, Simoncelli: Image quality assessment, IEEE TIP 13(4), 2004, section III-B and -C
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each frame, 10 log10(1 / mean squared error); infinite for equal frames.

    Args:
        a, b: (frames, H, W, C) of one shape, values in 0..1.

    Returns:
        (frames,) float64.
    """
    _check(a, b)
    error = _numbers((x.double() - y.double()).square().mean() for x, y in zip(a, b, strict=True))
    return -10 * error.log10()


def together(frames: Tensor) -> float:
    """PSNR in dB of a whole video, of that of each of its frames."""
    error = (10 ** (frames / -10)).mean()  # frames are equally large
    return float(-10 * error.log10())


def ssim(a: Tensor, b: Tensor, each: Callable[[], None] = lambda: None) -> Tensor:
    """Structural similarity of each frame: Gaussian window of 11 x 11 (sigma 1.5), K1 = .01, K2 = .03, L = 1.

    Mean over all window places inside the frame and over the channels. The window shrinks to the largest odd size
    that fits for frames smaller than 11.

    Args:
        a, b: (frames, H, W, C) of one shape, values in 0..1.
        each: called before each frame; may raise.

    Returns:
        (frames,) float64.
    """
    _check(a, b)
    return _numbers(_frame_ssim(x, y, each) for x, y in zip(a, b, strict=True))


def flicker(a: Tensor, b: Tensor) -> Tensor:
    """How much b changes from frame to frame otherwise than a: root mean square of (b' - b) - (a' - a), where x' is the
    frame after x. 0 where an error stands still, large where it comes and goes.

    Args:
        a, b: (frames, H, W, C) of one shape, values in 0..1.

    Returns:
        (frames - 1,) float64.
    """
    _check(a, b)
    errors = (y.double() - x.double() for x, y in zip(a, b, strict=True))
    return _numbers((after - before).square().mean().sqrt() for before, after in pairwise(errors))


def _numbers(found: Iterator[Tensor]) -> Tensor:
    """One number for each frame, float64. They are taken out of their tensors at once, as small tensors that are kept
    between large ones keep the allocator from giving back what lies beside them."""
    return torch.tensor([value.item() for value in found], dtype=torch.float64)


def _frame_ssim(a: Tensor, b: Tensor, each: Callable[[], None]) -> Tensor:
    each()
    channels = zip(a.unbind(-1), b.unbind(-1), strict=True)
    return torch.stack([_channel_ssim(x.double(), y.double()) for x, y in channels]).mean()


def _channel_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Of one channel (H, W) in float64."""
    mean_a, mean_b = _blur(a), _blur(b)
    means, product = mean_a.square() + mean_b.square(), mean_a * mean_b
    variances = _blur(a.square() + b.square()) - means  # of both together
    covariance = _blur(a * b) - product
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    return ((2 * product + c1) * (2 * covariance + c2) / ((means + c1) * (variances + c2))).mean()


def _blur(x: Tensor) -> Tensor:
    """Gaussian window at every place inside of (H, W), as a sum of shifted copies: torch's convolutions in float64 are
    many times as slow."""
    for axis in (-2, -1):
        size = min(SSIM_WINDOW, x.shape[axis] - (1 - x.shape[axis] % 2))
        place = torch.arange(size, dtype=x.dtype) - size // 2
        weight = (-(place**2) / (2 * SSIM_SIGMA**2)).exp()
        first, *others = (weight / weight.sum()).tolist()
        inside = x.shape[axis] - size + 1
        blurred = x.narrow(axis, 0, inside) * first
        for start, share in enumerate(others, 1):
            blurred.add_(x.narrow(axis, start, inside), alpha=share)
        x = blurred
    return x


def _check(a: Tensor, b: Tensor) -> None:
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(f"videos are {tuple(a.shape)} and {tuple(b.shape)}, expected one shape (frames, H, W, C)")
