"""The picture of one head: what it attends, as a profile saw it, beside the pattern that a plan gives it."""

from __future__ import annotations

import io

import numpy as np
from torch import Tensor

from ...kernels.patterns import Routed
from ..plan.plan import Plan
from ..profile.head_maps import part_grid, pattern_map
from ..profile.profile import Profile
from .colours import UNSHADED, Colour, kind_colour
from .pictures import GAP, GREY, INK, TEXT, TITLE, from_share, stack, text_block, with_axes

_PIXELS = 324  # of a map's side
_MEASURED: Colour = (64, 64, 64)


def fitting_maps(plan: Plan, profile: Profile | None) -> Tensor | None:
    """The maps of a profile of the plan's model and size (`Profile.maps`), None where it has none."""
    if profile is None or profile.maps is None:
        return None
    alike = ("family", "layers", "heads", "grid")
    return profile.maps if all(getattr(plan, name) == getattr(profile.header, name) for name in alike) else None


def draw_head(plan: Plan, maps: Tensor | None, band: int, layer: int, head: int) -> np.ndarray:
    """What a head attends, where there are maps, and its pattern, where it has a fixed one: uint8 RGB (H, W, 3).

    Args:
        maps: `fitting_maps`.

    Raises:
        ValueError: a band, layer or head that the plan does not have.
    """
    for name, number, count in (
        ("band", band, len(plan.bands)),
        ("layer", layer, plan.layers),
        ("head", head, plan.heads),
    ):
        if not 0 <= number < count:
            raise ValueError(f"{name} is {number}, the plan has {count} of them, numbered from 0")
    pattern = plan.pattern(band, layer, head)
    frames, rows = part_grid(plan.grid)
    lines = [
        (f"layer {layer}, head {head}: {pattern.describe()}"[:110], TITLE, INK),
        (f"queries down, keys across: the video in {frames} parts by time, each in {rows} by height", TEXT, GREY),
    ]
    measured = None if maps is None else _map(maps[layer, head])
    colour = kind_colour("dense" if pattern.kind in UNSHADED else pattern.kind)
    panels = [] if measured is None else [_panel("attends, as profiled", measured, _MEASURED)]
    if not isinstance(pattern, Routed):
        panels.append(_panel("runs", pattern_map(pattern, plan.grid), colour))
    else:
        lines.append(("the tiles of this head are chosen anew in each call", TEXT, GREY))
    return np.asarray(stack([text_block(lines), *([stack(panels, across=True)] if panels else [])], margin=GAP))


def as_png(picture: np.ndarray) -> bytes:
    """A picture's file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _map(shares: Tensor) -> Tensor:
    """A head's map, brightest where it attends most."""
    return (shares / shares.max().clamp_min(1e-30)).sqrt()  # so that the little is seen beside the most


def _panel(title: str, shares: Tensor, colour: Colour):
    """A map of shares in 0..1 under a title."""
    count = len(shares)
    scale = _PIXELS // count
    picture = from_share(np.kron(shares.numpy().astype(np.float64), np.ones((scale, scale))), colour)
    framed = with_axes(picture, count, count, ("part of the keys", "part of the queries"))
    return stack([text_block([(title, TEXT, INK)]), framed], gap=4)
