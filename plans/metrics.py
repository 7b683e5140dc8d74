"""How alike two videos are: PSNR and SSIM of frames, flicker between them, in torch alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
    error = torch.stack([(x.double() - y.double()).square().mean() for x, y in zip(a, b, strict=True)])
    return -10 * error.log10()


def video_psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB over the mean squared error of all frames together."""
    error = (10 ** (psnr(a, b) / -10)).mean()  # frames are equally large
    return float(-10 * error.log10())


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each frame: Gaussian window of 11 x 11 (sigma 1.5), K1 = .01, K2 = .03, L = 1.

    Mean over all window places inside the frame and over the channels. The window shrinks to the largest odd size
    that fits for frames smaller than 11.

    Args:
        a, b: (frames, H, W, C) of one shape, values in 0..1.

    Returns:
        (frames,) float64.
    """
    _check(a, b)
    return torch.stack([_frame_ssim(x, y) for x, y in zip(a, b, strict=True)])


def flicker(a: Tensor, b: Tensor) -> Tensor:
    """How much b changes from frame to frame otherwise than a: root mean square of (b' - b) - (a' - a), where x' is the
    frame after x. 0 where an error stands still, large where it comes and goes.

    Args:
        a, b: (frames, H, W, C) of one shape, values in 0..1.

    Returns:
        (frames - 1,) float64.
    """
    _check(a, b)
    error = b.double() - a.double()
    return error.diff(dim=0).square().flatten(1).mean(1).sqrt()


def _frame_ssim(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x.double().movedim(-1, 0)[:, None] for x in (a, b))  # (C, 1, H, W): channels are judged alone
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()


def _blur(x: Tensor) -> Tensor:
    for axis in (-2, -1):
        size = min(SSIM_WINDOW, x.shape[axis] - (1 - x.shape[axis] % 2))
        place = torch.arange(size, dtype=x.dtype, device=x.device) - size // 2
        weight = (-(place**2) / (2 * SSIM_SIGMA**2)).exp()
        weight = weight / weight.sum()
        x = F.conv2d(x, weight.view(1, 1, -1, 1) if axis == -2 else weight.view(1, 1, 1, -1))
    return x


def _check(a: Tensor, b: Tensor) -> None:
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(f"videos are {tuple(a.shape)} and {tuple(b.shape)}, expected one shape (frames, H, W, C)")
