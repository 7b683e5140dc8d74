"""What is about to be sampled, as far as it is known before the first forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.fallback import Dense
from ..models import Family, token_grid

DEFAULT_START = 0.2
"""Part of the noise schedule that stays dense at the beginning, where the user leaves start_percent as it is."""

OUTER_SAMPLE_ARGUMENTS = ("noise", "latent_image", "sampler", "sigmas")
"""Of a guider's `outer_sample`, in their order; others are given by name."""

HALVINGS = 30


@dataclass(frozen=True)
class Sampling:
    """One call of a sampler.

    Attributes:
        patcher: MODEL.
        model: its diffusion model.
        family: what the pack knows of it.
        sigmas: noise levels, falling, the one that is left at the end included.
        grid: (frames, height, width) in tokens of a forward, as far as can be foreseen; None where it cannot.
    """

    patcher: object
    model: nn.Module
    family: Family
    sigmas: tuple[float, ...] = ()
    grid: tuple[int, int, int] | None = None

    def percent_to_sigma(self, percent: float) -> float:
        """Noise level at a part of the whole schedule."""
        return float(self.patcher.get_model_object("model_sampling").percent_to_sigma(percent))


def sampling_of(patcher: object, family: Family, options: Mapping, given: Mapping) -> Sampling:
    """What is known from a MODEL, its model_options and the arguments of a guider's `outer_sample`, by name."""
    model = patcher.model.diffusion_model
    grid = foreseen_grid(model, family, given["noise"], given.get("latent_shapes"), options)
    return Sampling(patcher, model, family, tuple(given["sigmas"].tolist()), grid)


def whole_steps(sigmas: Sequence[float], percent_to_sigma: Callable[[float], float]) -> float:
    """Steps that the whole schedule has if all of it is as this sampler's part: two stages of two steps are four."""
    covered = _percent(sigmas[-1], percent_to_sigma) - _percent(sigmas[0], percent_to_sigma)
    return (len(sigmas) - 1) / max(covered, 1e-6)


def _percent(sigma: float, percent_to_sigma: Callable[[float], float]) -> float:
    """Part of the schedule, 0 to 1, that lies above a noise level."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if percent_to_sigma(middle) > sigma else (low, middle)
    return high


def foreseen_grid(
    model: nn.Module, family: Family, noise: Tensor, shapes: Sequence | None, options: Mapping
) -> tuple[int, int, int] | None:
    """Token grid of forwards on these latents, of one window where there are context windows; None where unknown.

    Args:
        noise: the latents, or all of them packed in one where there are several.
        shapes: of the latents when they are packed.
        options: model_options of the sampling.
    """
    shapes = [list(shape) for shape in (shapes if shapes is not None and len(shapes) > 1 else [noise.shape])]
    windows = options.get("context_handler")
    axis, length = getattr(windows, "dim", None), getattr(windows, "context_length", None)
    if isinstance(axis, int) and isinstance(length, int) and 0 <= axis < len(shapes[0]):
        shapes[0][axis] = min(shapes[0][axis], length)
    latents = [torch.empty(shape, device="meta") for shape in shapes]
    context = torch.empty(1, 1, 1, device="meta")
    grid = token_grid(model, family, {"x": latents if len(latents) > 1 else latents[0], "context": context})
    return None if isinstance(grid, Dense) else grid.shape
