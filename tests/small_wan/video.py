"""Procedural video with structure, described in words: textured shapes that move, turn and pass behind each other.

A scene is a line of words per object and one for the background. The words are the conditioning, encoded by fixed
random vectors as wide as a T5 embedding; what they do not say (exact places, phases, waves) is left to the noise.
Pixels become latents by a fixed orthonormal mapping (2x2 pixels x RGB -> 16 channels), so that no VAE is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import LATENT_CHANNELS, TEXT_DIM

KINDS = ("disc", "square")
KNOWN_KINDS = (*KINDS, "triangle", "cross")  # the last two were too thin for tokens of 4 x 4 pixels to be learned
COLOURS = {
    "red": (0.95, -0.7, -0.7),
    "green": (-0.7, 0.8, -0.6),
    "blue": (-0.6, -0.4, 1.0),
    "yellow": (1.0, 0.9, -0.8),
    "magenta": (0.9, -0.7, 0.9),
    "cyan": (-0.7, 0.85, 0.95),
    "white": (0.95, 0.95, 0.95),
}
# Lengths are in pixels, not in frame heights: Wan knows relative positions only, so it cannot tell how high a frame is
# but by its borders, and would never learn how large "small" is at which resolution.
SIZES = {"small": 8.0, "large": 12.0}  # radius
DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")
MOTIONS = ("still", *DIRECTIONS)
SPINS = {"straight": 0.0, "turning": 0.22}  # radians per frame
GROUNDS = {"night": (-0.75, -0.7, -0.45), "forest": (-0.65, -0.4, -0.7), "dusk": (-0.35, -0.65, -0.5)}
SPEED = 2.0  # per frame, on each axis
DRIFT = 1.0
TOKEN = 4  # 2 pixels to a latent, 2 latents to a token
VOCABULARY = (*KNOWN_KINDS, *COLOURS, *SIZES, *MOTIONS, *SPINS, *GROUNDS, "drifting")
MAX_OBJECTS = 2
CONTEXT_TOKENS = MAX_OBJECTS + 1
_SCALE = 2.0  # latents of about unit variance


def _fixed(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


_CODES = dict(zip(VOCABULARY, _fixed(len(VOCABULARY), TEXT_DIM, seed=20), strict=True))
_BASIS = torch.linalg.qr(_fixed(LATENT_CHANNELS, 12, seed=21))[0]


@dataclass(frozen=True)
class Scene:
    """Words of a scene: one line per object, then the background's line."""

    lines: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return ", ".join(" ".join(line) for line in self.lines)


def random_scene(generator: torch.Generator) -> Scene:
    """One or two objects on a drifting background, every word drawn uniformly."""

    def pick(words: object) -> str:
        words = tuple(words)
        return words[int(torch.randint(len(words), (), generator=generator))]

    count = 1 + int(torch.randint(MAX_OBJECTS, (), generator=generator))
    lines = [(pick(SIZES), pick(COLOURS), pick(KINDS), pick(SPINS), pick(MOTIONS)) for _ in range(count)]
    return Scene((*lines, (pick(GROUNDS), "drifting", pick(DIRECTIONS))))


def encode(scenes: list[Scene]) -> Tensor:
    """Context (B, 3, 4096) of the scenes; a line's token is the sum of its words, missing objects are zeros."""
    context = torch.zeros(len(scenes), CONTEXT_TOKENS, TEXT_DIM)
    for row, scene in zip(context, scenes, strict=True):
        for token, line in zip(row, scene.lines, strict=False):
            token += torch.stack([_CODES[word] for word in line]).sum(0) / len(line) ** 0.5
    return context


def to_latent(video: Tensor) -> Tensor:
    """RGB (B, 3, T, 2H, 2W) in -1..1 -> latents (B, 16, T, H, W)."""
    patches = F.pixel_unshuffle(video.transpose(1, 2), 2)
    return _SCALE * torch.einsum("btchw,dc->bdthw", patches, _BASIS.to(video))


def to_video(latent: Tensor) -> Tensor:
    """Latents (B, 16, T, H, W) -> RGB (B, 3, T, 2H, 2W); the inverse of `to_latent`, clamped to -1..1."""
    patches = torch.einsum("bdthw,dc->btchw", latent, _BASIS.to(latent)) / _SCALE
    return F.pixel_shuffle(patches, 2).transpose(1, 2).clamp(-1, 1)


def _velocity(motion: str, speed: float) -> tuple[float, float]:
    if motion == "still":
        return 0.0, 0.0
    angle = DIRECTIONS.index(motion) * math.pi / 4
    return speed * round(math.cos(angle)), speed * round(math.sin(angle))


def _column(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None]


def _signed_distances(u: Tensor, v: Tensor) -> Tensor:
    """Distance (in radii, negative inside) to the outline of each kind, stacked first."""
    disc = (u * u + v * v).sqrt() - 1
    square = torch.maximum(u.abs(), v.abs()) - 0.82
    triangle = torch.maximum(v - 0.62, u.abs() * 0.87 - v * 0.5 - 0.52)
    arm = torch.maximum(u.abs() - 0.96, v.abs() - 0.32)
    bar = torch.maximum(u.abs() - 0.32, v.abs() - 0.96)
    return torch.stack([disc, square, triangle, torch.minimum(arm, bar)])


def render(scenes: list[Scene], frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Video (B, 3, frames, height, width) in -1..1 of the scenes, at places drawn from the generator."""
    batch = len(scenes)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator)[..., None, None, None]

    y = (torch.arange(height) + 0.5 - height / 2)[:, None]
    x = (torch.arange(width) + 0.5 - width / 2)[None, :]
    t = (torch.arange(frames) - (frames - 1) / 2)[:, None, None]

    image = _background(scenes, uniform, x, y, t)
    sides = (uniform(1)[:, 0] < 0.5) * 2.0 - 1.0
    for slot in range(MAX_OBJECTS):
        lines = [scene.lines[slot] if slot < len(scene.lines) - 1 else None for scene in scenes]
        present = _column([line is not None for line in lines])
        lines = [line or ("small", "white", "disc", "straight", "still") for line in lines]
        velocity = torch.tensor([_velocity(line[4], SPEED) for line in lines])[..., None, None, None]
        # two objects begin on different sides, so that both can be seen before one hides the other
        side = sides * (1 - 2 * slot)
        across, down = uniform(1)[:, 0], uniform(1)[:, 0]
        place = torch.stack([side * across * 0.4 * width, (down - 0.5) * 0.5 * height], dim=1)
        # in the middle of the clip at a corner of the model's tokens: an outline is then one of few, not of a continuum
        place = (place / TOKEN).round() * TOKEN
        dx, dy = x - place[:, 0] - velocity[:, 0] * t, y - place[:, 1] - velocity[:, 1] * t
        spin = _column([SPINS[line[3]] for line in lines])
        angle = spin * t  # upright in the middle of the clip: what is left to the noise is where, not which way up
        radius = _column([SIZES[line[0]] for line in lines])
        u = (dx * angle.cos() + dy * angle.sin()) / radius
        v = (dy * angle.cos() - dx * angle.sin()) / radius
        kind = torch.tensor([KNOWN_KINDS.index(line[2]) for line in lines])
        distance = _signed_distances(u, v)[kind, torch.arange(batch)]
        cover = (present * torch.sigmoid(-distance * radius * 1.6))[:, None]
        shade = 0.84 + 0.16 * torch.sin(u * 3.4) * torch.sin(v * 3.4)  # texture, so that turning shows
        colour = torch.tensor([COLOURS[line[1]] for line in lines])[..., None, None, None]
        image = image * (1 - cover) + (1 + colour) * shade[:, None] * cover - cover
    return image


def _background(scenes: list[Scene], uniform: object, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """Waves of random direction over a base colour, drifting together."""
    lines = [scene.lines[-1] for scene in scenes]
    drift = torch.tensor([_velocity(line[2], DRIFT) for line in lines])[..., None, None, None]
    image = torch.tensor([GROUNDS[line[0]] for line in lines])[..., None, None, None]
    gx, gy = x - drift[:, 0] * t, y - drift[:, 1] * t
    for _ in range(2):
        angle, phase, tint = uniform() * 2 * math.pi, uniform() * 2 * math.pi, uniform(3)
        frequency = 0.19 + 0.19 * uniform()
        wave = torch.sin(frequency * (gx * angle.cos() + gy * angle.sin()) + phase)
        image = image + 0.22 * (tint - 0.3) * wave[:, None]
    return image


def sample_batch(batch: int, frames: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents (B, 16, frames, height, width) of random scenes and their context (B, 3, 4096)."""
    scenes = [random_scene(generator) for _ in range(batch)]
    return to_latent(render(scenes, frames, 2 * height, 2 * width, generator)), encode(scenes)
