"""PSNR and SSIM against their definitions, written out in loops."""

from __future__ import annotations

import math

import pytest
import torch
from sparse_vdit.plans.view.metrics import flicker, psnr, ssim, together


def videos(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(shape, generator=generator)
    return a, (a + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)


def test_psnr_of_a_known_error() -> None:
    a = torch.zeros(2, 7, 9, 3)
    b = a.clone()
    b[0] += 0.1
    b[1] += 0.01
    assert psnr(a, b).tolist() == pytest.approx([20, 40], abs=1e-5)
    assert together(psnr(a, b)) == pytest.approx(-10 * math.log10((0.01 + 0.0001) / 2), abs=1e-5)
    assert psnr(a, a).tolist() == [math.inf, math.inf]


def naive_ssim(x: torch.Tensor, y: torch.Tensor) -> float:
    """Wang et al. 2004, Eq. 13, one window place after the other, for one channel (H, W)."""
    place = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(place**2) / (2 * 1.5**2))
    w = torch.outer(line, line)
    w = w / w.sum()
    values = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = (z[row : row + 11, column : column + 11].double() for z in (x, y))
            mean_a, mean_b = (w * a).sum(), (w * b).sum()
            var_a, var_b = (w * (a - mean_a) ** 2).sum(), (w * (b - mean_b) ** 2).sum()
            cov = (w * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 0.01**2, 0.03**2
            values.append(
                (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(torch.stack(values).mean())


def test_ssim_is_the_published_formula() -> None:
    a, b = videos(2, 15, 17, 3)
    truth = [sum(naive_ssim(x[..., c], y[..., c]) for c in range(3)) / 3 for x, y in zip(a, b, strict=True)]
    assert ssim(a, b).tolist() == pytest.approx(truth, abs=1e-9)
    assert ssim(a, a).tolist() == pytest.approx([1, 1])


def test_flicker_counts_errors_that_come_and_go() -> None:
    a, _ = videos(4, 7, 9, 3)
    still = a + 0.1
    assert flicker(a, still).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    blinking = a.clone()
    blinking[1] += 0.1
    assert flicker(a, blinking).tolist() == pytest.approx([0.1, 0.1, 0], abs=1e-6)
    assert flicker(a[:1], a[:1]).shape == (0,)


def test_flicker_frame_by_frame_is_that_of_the_whole_video() -> None:
    a, b = videos(9, 13, 7, 3)
    whole = (b.double() - a.double()).diff(dim=0).square().flatten(1).mean(1).sqrt()
    assert flicker(a, b).tolist() == pytest.approx(whole.tolist(), abs=1e-12)


def test_ssim_is_that_of_windows_by_convolution() -> None:
    """As whole videos were computed: all frames and channels in one convolution, both variances alone."""
    a, b = videos(3, 15, 37, 3)
    place = torch.arange(11, dtype=torch.float64) - 5
    line = (-(place**2) / (2 * 1.5**2)).exp()
    window = torch.outer(line, line).div(line.sum() ** 2)[None, None]

    def blur(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x.movedim(-1, 1).flatten(0, 1)[:, None], window).unflatten(0, (3, 3))

    x, y = a.double(), b.double()
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    whole = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    assert ssim(a, b).tolist() == pytest.approx(whole.flatten(1).mean(1).tolist(), abs=1e-12)


def test_small_frames_get_a_smaller_window() -> None:
    a, b = videos(1, 5, 8, 3)
    assert 0 < float(ssim(a, b)) < 1


def test_different_sizes_are_refused() -> None:
    a, b = videos(2, 15, 17, 3)
    with pytest.raises(ValueError, match=r"expected one shape \(frames, H, W, C\)"):
        psnr(a, b[:1])


def test_each_frame_asks_whether_to_go_on() -> None:
    asked = []

    def each() -> None:
        asked.append(len(asked))
        if len(asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ssim(*videos(5, 12, 13, 3), each)
    assert asked == [0, 1, 2]
