"""Procedural video with structure, described in words: textured objects that move, turn, grow and pass behind each
other over a static, detailed ground, seen by a camera that pans and zooms, in changing light.

A scene is a line of words per object, one for the ground and one for the camera. The words are the conditioning,
encoded by fixed random vectors as wide as a T5 embedding; what they do not say (exact places, phases, textures of the
ground) is left to the noise. Pixels become latents by a fixed orthonormal mapping (2x2 pixels x RGB -> 16 channels), so
that no VAE is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import LATENT_CHANNELS, TEXT_DIM

KINDS = ("disc", "square")
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
GROWTHS = {"steady": 0.0, "growing": 0.04, "shrinking": -0.04}  # of the logarithm of the radius, per frame
TEXTURES = ("plain", "checked", "striped")
PANS = ("pan-still", *(f"pan-{direction}" for direction in DIRECTIONS))
ZOOMS = {"level": 0.0, "zoom-in": 0.03, "zoom-out": -0.03}  # of the logarithm of the magnification, per frame
LIGHTS = {"even": 0.0, "brightening": 0.04, "darkening": -0.04}  # of the brightness, per frame
SPEED = 2.0  # per frame, on each axis
PAN = 1.0
TOKEN = 4  # 2 pixels to a latent, 2 latents to a token
# a word's code is its place in this line: what stands in it stays, in use or not, and new words come last
VOCABULARY = (
    *KINDS, "triangle", "cross", *COLOURS, *SIZES, *MOTIONS, *SPINS, *GROUNDS, "drifting", *GROWTHS, *TEXTURES, *PANS,
    *ZOOMS, *LIGHTS,
)  # fmt: skip
MAX_OBJECTS = 3
ROOM_FOR_THREE = 600  # latents of a frame
CONTEXT_TOKENS = MAX_OBJECTS + 2
_SCALE = 2.0  # latents of about unit variance


def _fixed(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


_CODES = dict(zip(VOCABULARY, _fixed(len(VOCABULARY), TEXT_DIM, seed=20), strict=True))
_BASIS = torch.linalg.qr(_fixed(LATENT_CHANNELS, 12, seed=21))[0]


@dataclass(frozen=True)
class Scene:
    """Words of a scene: one line per object, then the ground's and the camera's."""

    lines: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return ", ".join(" ".join(line) for line in self.lines)


def random_scene(generator: torch.Generator, most_objects: int = 2) -> Scene:
    """One or more objects, every word drawn uniformly; growth, camera and light are at rest in half the scenes each."""

    def pick(words: Iterable[str]) -> str:
        words = tuple(words)
        return words[int(torch.randint(len(words), (), generator=generator))]

    def rest_or(words: Iterable[str]) -> str:
        rest, *others = words
        return rest if torch.rand((), generator=generator) < 0.5 else pick(others)

    count = 1 + int(torch.randint(most_objects, (), generator=generator))
    lines = [
        (pick(SIZES), pick(COLOURS), pick(TEXTURES), pick(KINDS), pick(SPINS), rest_or(GROWTHS), pick(MOTIONS))
        for _ in range(count)
    ]
    return Scene((*lines, (pick(GROUNDS),), (rest_or(PANS), rest_or(ZOOMS), rest_or(LIGHTS))))


def encode(scenes: list[Scene]) -> Tensor:
    """Context (B, 5, 4096) of the scenes; a line's token is the sum of its words, missing objects are zeros."""
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
    """Distance (in radii, negative inside) to the outline of each of KINDS, stacked first."""
    return torch.stack([(u * u + v * v).sqrt() - 1, torch.maximum(u.abs(), v.abs()) - 0.82])


def render(
    scenes: list[Scene], frames: int, height: int, width: int, generator: torch.Generator, device: str = "cpu"
) -> Tensor:
    """Video (B, 3, frames, height, width) in -1..1 of the scenes, at places drawn from the generator.

    The generator is the CPU's, so that a seed shows the same scene on every device.
    """
    with torch.device(device):
        return _render(scenes, frames, height, width, generator)


def _render(scenes: list[Scene], frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    batch, device = len(scenes), torch.get_default_device()

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator, device="cpu").to(device)[..., None, None, None]

    y = (torch.arange(height) + 0.5 - height / 2)[:, None]
    x = (torch.arange(width) + 0.5 - width / 2)[None, :]
    t = (torch.arange(frames) - (frames - 1) / 2)[:, None, None]
    cameras = [scene.lines[-1] for scene in scenes]
    pan = torch.tensor([_velocity(line[0].removeprefix("pan-"), PAN) for line in cameras])[..., None, None, None]
    zoom = torch.exp(_column([ZOOMS[line[1]] for line in cameras]) * t)
    x, y = x / zoom + pan[:, 0] * t, y / zoom + pan[:, 1] * t  # places in the world, (B, frames, height, width)

    image = _ground(scenes, uniform, x, y)
    sides = (uniform(1)[:, 0] < 0.5) * 2.0 - 1.0
    for slot in range(MAX_OBJECTS):
        lines = [scene.lines[slot] if slot < len(scene.lines) - 2 else None for scene in scenes]
        # objects begin on different sides, so that all can be seen before one hides the other
        side = sides * (1 - 2 * (slot % 2))
        across, down = uniform(1)[:, 0], uniform(1)[:, 0]
        place = torch.stack([side * across * 0.4 * width, (down - 0.5) * 0.5 * height], dim=1)
        # in the middle of the clip at a corner of the model's tokens: an outline is then one of few, not of a continuum
        place = (place / TOKEN).round() * TOKEN
        if any(lines):
            image = _draw_object(image, lines, x, y, t, place)
    light = 1 + _column([LIGHTS[line[2]] for line in cameras]) * t
    return ((1 + image) * light[:, None] - 1).clamp(-1, 1)


def _draw_object(image: Tensor, lines: list, x: Tensor, y: Tensor, t: Tensor, place: Tensor) -> Tensor:
    """The image with each scene's object over it, none where the line is None."""
    present = _column([line is not None for line in lines])
    lines = [line or ("small", "white", "plain", "disc", "straight", "steady", "still") for line in lines]
    velocity = torch.tensor([_velocity(line[6], SPEED) for line in lines])[..., None, None, None]
    dx, dy = x - place[:, 0] - velocity[:, 0] * t, y - place[:, 1] - velocity[:, 1] * t
    angle = _column([SPINS[line[4]] for line in lines]) * t  # upright in the middle of the clip
    radius = _column([SIZES[line[0]] for line in lines]) * torch.exp(_column([GROWTHS[line[5]] for line in lines]) * t)
    u = (dx * angle.cos() + dy * angle.sin()) / radius
    v = (dy * angle.cos() - dx * angle.sin()) / radius
    batch = torch.arange(len(lines))
    distance = _signed_distances(u, v)[torch.tensor([KINDS.index(line[3]) for line in lines]), batch]
    cover = (present * torch.sigmoid(-distance * radius * 1.6))[:, None]
    shade = _shades(u, v)[torch.tensor([TEXTURES.index(line[2]) for line in lines]), batch]
    colour = torch.tensor([COLOURS[line[1]] for line in lines])[..., None, None, None]
    return image * (1 - cover) + (1 + colour) * shade[:, None] * cover - cover


def _shades(u: Tensor, v: Tensor) -> Tensor:
    """Brightness of each texture, stacked first; all show that an object turns."""
    plain = 0.84 + 0.16 * torch.sin(u * 3.4) * torch.sin(v * 3.4)
    checked = 0.75 + 0.25 * torch.tanh(4 * torch.sin(u * 4.2) * torch.sin(v * 4.2))
    striped = 0.75 + 0.25 * torch.tanh(3 * torch.sin(u * 6.0))
    return torch.stack([plain, checked, striped])


def _ground(scenes: list[Scene], uniform: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Coarse and fine waves of random direction over a base colour, at rest in the world: (B, 3, ...)."""
    image = torch.tensor([GROUNDS[scene.lines[-2][0]] for scene in scenes])[..., None, None, None]
    for strength, slowest in ((0.22, 0.19), (0.22, 0.19), (0.16, 0.4), (0.16, 0.4)):  # radians per pixel, to twice that
        angle, phase, tint = uniform() * 2 * math.pi, uniform() * 2 * math.pi, uniform(3)
        frequency = slowest * (1 + uniform())
        wave = torch.sin(frequency * (x * angle.cos() + y * angle.sin()) + phase)
        image = image + strength * (tint - 0.3) * wave[:, None]
    return image


def sample_batch(
    batch: int, frames: int, height: int, width: int, generator: torch.Generator, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Latents (B, 16, frames, height, width) of random scenes and their context (B, 5, 4096)."""
    most = 2 if height * width < ROOM_FOR_THREE else MAX_OBJECTS
    scenes = [random_scene(generator, most) for _ in range(batch)]
    return to_latent(render(scenes, frames, 2 * height, 2 * width, generator, device)), encode(scenes).to(device)
