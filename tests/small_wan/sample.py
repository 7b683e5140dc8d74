"""Sampling and loading of the small Wan: Euler steps along the flow, with guidance, as ComfyUI's KSampler does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .model import LATENT_CHANNELS, AttentionHook, SmallWan, dense_attention

WEIGHTS = Path(__file__).with_name("small_wan.safetensors")
SHIFT = 8.0  # of the sigma schedule towards noise, as ComfyUI has it for Wan
GUIDANCE = 3.0


class ReadError(ValueError):
    """A file holds no small Wan. The message begins with its name."""


@contextmanager
def read(file: Path) -> Iterator[None]:
    """Around reading weights or a checkpoint: whatever a damaged file, or one of another model, leads to is a
    ReadError."""
    try:
        yield
    except (EOFError, KeyError, RuntimeError, TypeError, ValueError, UnpicklingError, SafetensorError) as error:
        first_line = (str(error).strip().splitlines() or ["it is empty"])[0]
        raise ReadError(f"{file} is damaged or of another model ({type(error).__name__}: {first_line})") from error


def load_model(file: Path = WEIGHTS, device: str = "cpu") -> SmallWan:
    """The trained model in fp32, ready to sample.

    Raises:
        ReadError: the file holds none.
        OSError: there is no such file.
    """
    model = SmallWan()
    with read(file):
        model.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    return model.to(device).eval().requires_grad_(False)


def sigma_schedule(steps: int) -> Tensor:
    """Noise levels (steps + 1,) from 1 to 0, shifted towards noise."""
    linear = torch.linspace(1, 0, steps + 1)
    return SHIFT * linear / (1 + (SHIFT - 1) * linear)


@torch.inference_mode()
def sample(
    model: SmallWan,
    context: Tensor,
    grid: tuple[int, int, int],
    steps: int = 20,
    seed: int = 0,
    attention: Callable[[float], AttentionHook] | None = None,
    on_step: Callable[[], None] = lambda: None,
    watch: Callable[[float, Tensor], None] = lambda sigma, x: None,
) -> Tensor:
    """Latents (B, 16, T, 2H, 2W) for context (B, L, 4096) on a token grid (T, H, W), where the model is.

    Noise is the CPU's, so that a seed gives the same video on every device. `attention(sigma)` gives the hook for each
    step; `watch(sigma, latents)` sees what each step begins with.
    """
    frames, height, width = grid
    device = model.patch_embedding.weight.device
    context = context.to(device)
    shape = (context.shape[0], LATENT_CHANNELS, frames, 2 * height, 2 * width)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    sigmas = sigma_schedule(steps).tolist()
    for sigma, following in itertools.pairwise(sigmas):
        hook = attention(sigma) if attention else dense_attention
        watch(sigma, x)
        x = x + (following - sigma) * guided(model, x, sigma, context, hook)
        on_step()
    return x


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where products are faster in it: most CPUs take 4.5 times as long for it as for float32, and the videos
    are 52 dB from each other."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type != "cpu")


@torch.inference_mode()
def guided(model: SmallWan, x: Tensor, sigma: float, context: Tensor, hook: AttentionHook) -> Tensor:
    """The model's velocity with guidance; the words' and the wordless half of it run as one batch."""
    both = torch.cat([context, torch.zeros_like(context)])
    timestep = torch.full((2 * len(x),), 1000 * sigma, device=x.device)
    with half_precision(x.device):
        words, wordless = model(torch.cat([x, x]), timestep, both, hook).float().chunk(2)
    return wordless + GUIDANCE * (words - wordless)
