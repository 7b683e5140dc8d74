"""Are sparse videos as good as dense ones where they differ? Two measures against true videos of the same words.

The difference to the dense video alone cannot tell another good video from a worse one. The loss says how well the
sparse model still knows true videos. The distance compares small blocks of pixels of few generated videos with true
ones: a much larger one shows videos that are worse, noisy or flickering. A smaller one than the dense videos' shows
nothing: sparse attention blurs, and so moves mean and spread of such blocks, in either direction.
"""

from __future__ import annotations

from collections import Counter

import torch
from small_wan.model import SmallWan
from small_wan.sample import half_precision, sigma_schedule
from small_wan.video import Scene, render, sample_batch
from sparse_vdit.plans.plan.plan import Plan
from torch import Tensor

from benchmarks.quality.small_wan_runs import GRID, STEPS, Attention, plan_attention, warmup_steps

TRUTH_SEED = 20_000_000  # far from the seeds of the shipped weights' training
RENDERINGS = 16  # true videos of each scene
BLOCK = (3, 4, 4)  # frames, height, width in pixels: one token wide, long enough to see motion and flicker


@torch.inference_mode()
def held_out_loss(
    model: SmallWan, plan: Plan | Attention | None, clips: int, steps: int = STEPS, seed: int = TRUTH_SEED,
    grid: tuple[int, int, int] = GRID,
) -> float:  # fmt: skip
    """Flow-matching loss on true videos that the training has not seen, mean over noise levels after the warm-up.

    Against the dense loss of the same seed it says how much of what it knows of true videos a sparse model has lost;
    generated videos play no part in it.
    """
    device = model.patch_embedding.weight.device
    generator = torch.Generator().manual_seed(seed)
    frames, height, width = grid
    latent, context = sample_batch(clips, frames, 2 * height, 2 * width, generator, device.type)
    noise = torch.randn(latent.shape, generator=generator).to(device)
    attention = plan_attention(plan, Counter())
    losses = []
    for sigma in sigma_schedule(steps).tolist()[warmup_steps(steps) : -1 : 3]:
        timestep = torch.full((clips,), 1000 * sigma, device=device)
        with half_precision(device):
            velocity = model((1 - sigma) * latent + sigma * noise, timestep, context, attention(sigma))
        losses.append((velocity.float() - (noise - latent)).square().mean().item())
    return sum(losses) / len(losses)


def true_videos(
    scenes: list[Scene], frames: int, height: int, width: int, renderings: int, seed: int = TRUTH_SEED
) -> Tensor:
    """Videos (renderings * scenes, frames, height, width, 3) in 0..1 as the scenes' words describe them."""
    generator = torch.Generator().manual_seed(seed)
    video = render(scenes * renderings, frames, height, width, generator)
    return (video.permute(0, 2, 3, 4, 1) + 1) / 2


def blocks(videos: Tensor) -> Tensor:
    """Blocks of pixels of videos (B, frames, H, W, 3), side by side and not overlapping: (n, 3 * 3 * 4 * 4) float64."""
    for axis, size in enumerate(BLOCK, start=1):
        videos = videos.unfold(axis, size, size)
    return videos.permute(0, 1, 2, 3, 5, 6, 7, 4).reshape(-1, 3 * BLOCK[0] * BLOCK[1] * BLOCK[2]).double()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of the Gaussians with the moments of two samples (n, features), arXiv 1706.08500 equation 6.

    |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), the last root of the symmetric form by eigenvalues.
    """
    covariance_a, covariance_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(covariance_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    return float(shift + covariance_a.trace() + covariance_b.trace() - 2 * cross)


class Truth:
    """True videos of the scenes that are generated, to compare with."""

    def __init__(self, scenes: list[Scene], video: Tensor):
        """`video` (B, frames, H, W, 3) says how large they are."""
        frames, height, width = video.shape[1:4]
        self.blocks = blocks(true_videos(scenes, frames, height, width, RENDERINGS))
        self.others = true_videos(scenes, frames, height, width, 1, TRUTH_SEED + 1)

    def distance(self, videos: Tensor) -> float:
        """Fréchet distance of the videos' blocks to those of true ones, the smaller the better."""
        return frechet_distance(blocks(videos), self.blocks)

    def floor(self) -> float:
        """The same of as many other true videos: what a perfect model would have."""
        return self.distance(self.others)
