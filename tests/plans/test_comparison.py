"""Pictures of how two videos differ, and the memory that comparing takes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sparse_vdit.plans.view.comparison import _LINE, HEAT, compare, draw_comparison, heat_map, side_by_side
from torch.profiler import ProfilerActivity, profile

FRAMES_HELD = 10.1
"""Most frames in float32 that comparing needs beside the videos and its result: ten, as it says, and some numbers."""


def videos(frames: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    reference = torch.rand(frames, 13, 17, 3, generator=torch.Generator().manual_seed(3))
    video = reference.clone()
    video[frames // 2] = 1 - video[frames // 2]
    return reference, video


def test_heat_is_black_where_equal_white_where_far_and_rises_in_lightness() -> None:
    reference = torch.zeros(1, 1, 101, 3)
    video = torch.linspace(0, 1, 101).reshape(1, 1, 101, 1).expand(1, 1, 101, 3)
    colours = heat_map(reference, video, 1.0)[0, 0]
    assert torch.equal(colours[0], torch.zeros(3))
    assert torch.equal(colours[-1], torch.ones(3))
    for number, colour in enumerate(HEAT):
        place = round(100 * number / (len(HEAT) - 1))
        assert torch.allclose(colours[place] * 255, torch.tensor(colour).float(), atol=4)
    light = colours @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (light.diff() > 0).all()


def test_gain_makes_differences_larger() -> None:
    reference, video = torch.zeros(1, 1, 1, 3), torch.full((1, 1, 1, 3), 0.1)
    assert torch.allclose(heat_map(reference, video, 5.0), heat_map(reference, video * 5, 1.0))
    assert torch.equal(heat_map(reference, video, 20.0), torch.ones(1, 1, 1, 3))


@pytest.mark.parametrize("frames", [1, 2, 7, 121])
def test_plots_have_a_line_where_there_are_values(frames: int) -> None:
    picture = draw_comparison(compare(*videos(frames)))
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    inked = (picture == _LINE).all(-1).any(1)
    assert inked.any()
    # each of the three plots has its own rows; a video of one frame has no flicker
    parts = np.diff(np.flatnonzero(inked))
    assert (parts > 40).sum() == (2 if frames > 1 else 1)


def test_equal_videos_are_drawn_without_infinite_values() -> None:
    reference, _ = videos()
    found = compare(reference, reference)
    assert torch.isinf(found.psnr).all()
    assert draw_comparison(found).size


def test_side_by_side_is_both_videos_and_the_map_of_their_difference() -> None:
    reference, video = videos()
    whole = torch.cat([reference, video, heat_map(reference, video, 3.0)], 2)
    assert torch.equal(side_by_side(reference, video, 3.0), whole)


def peak_bytes(made: Callable[[], object]) -> int:
    """The most bytes of tensors that were there at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        made()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.max())


@pytest.mark.parametrize("frames", [3, 29])
def test_memory_beside_the_videos_does_not_grow_with_them(frames: int) -> None:
    reference, video = torch.rand(2, frames, 93, 131, 3)
    frame = reference[0].numel() * reference.element_size()
    assert peak_bytes(lambda: reference + video) == frames * frame  # what is measured is what is meant
    assert peak_bytes(lambda: compare(reference, video)) <= FRAMES_HELD * frame
    result = 3 * frames * frame
    assert result < peak_bytes(lambda: side_by_side(reference, video, 4.0)) <= result + FRAMES_HELD * frame
