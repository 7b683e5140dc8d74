"""What is known of a sampler's part of the schedule, and of its tokens before it begins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from model_stand_ins import HunyuanVideo, LTXVModel, WanModel
from sparse_vdit.nodes.host.hooks.sampling import foreseen_grid, whole_steps
from sparse_vdit.nodes.host.models import HUNYUAN_VIDEO, LTX, WAN


def flow(percent: float) -> float:
    """ComfyUI's schedule of flow models with shift 8."""
    time = min(1.0, max(0.0, 1 - percent))
    return 8 * time / (1 + 7 * time)


def diffusion(percent: float) -> float:
    """One whose noise levels are not 0 to 1, as CogVideoX has."""
    if percent <= 0:
        return 999999999.9
    return 4518.0 * (1 - percent) ** 3 if percent < 1 else 0.0


@pytest.mark.parametrize("percent_to_sigma", [flow, diffusion])
@pytest.mark.parametrize("steps", [1, 4, 7, 30])
def test_steps_of_the_whole_schedule(percent_to_sigma: object, steps: int) -> None:
    sigmas = [percent_to_sigma(step / steps) for step in range(steps + 1)]
    sigmas[0] = min(sigmas[0], 4518.0)
    assert whole_steps(sigmas, percent_to_sigma) == pytest.approx(steps, rel=1e-3)


def test_steps_of_the_whole_schedule_by_a_part_of_it() -> None:
    """Two of four, six of twenty, and the last half of an image to image run."""
    for first, last, steps in ((0, 2, 4), (2, 4, 4), (0, 6, 20), (6, 20, 20), (15, 30, 30)):
        sigmas = [flow(step / steps) for step in range(first, last + 1)]
        assert whole_steps(sigmas, flow) == pytest.approx(steps, rel=1e-3), (first, last, steps)


def test_tokens_of_a_forward() -> None:
    noise = torch.empty(1, 16, 9, 17, 22)
    assert foreseen_grid(WanModel(), WAN, noise, None, {}) == (9, 9, 11)
    assert foreseen_grid(WanModel(), WAN, noise, [noise.shape], {}) == (9, 9, 11)
    windows = {"context_handler": SimpleNamespace(dim=2, context_length=5)}
    assert foreseen_grid(WanModel(), WAN, noise, None, windows) == (5, 9, 11)
    windows["context_handler"].context_length = 50
    assert foreseen_grid(WanModel(), WAN, noise, None, windows) == (9, 9, 11)
    assert foreseen_grid(HunyuanVideo(), HUNYUAN_VIDEO, noise, None, {}) == (9, 9, 11)
    assert foreseen_grid(WanModel(), WAN, torch.empty(1, 16, 8), None, {}) is None


def test_tokens_of_a_forward_on_packed_latents() -> None:
    packed, shapes = torch.empty(1, 1, 9000), [(1, 128, 3, 5, 7), (1, 8, 11, 16)]
    assert foreseen_grid(LTXVModel(), LTX, packed, shapes, {}) == (3, 5, 7)
