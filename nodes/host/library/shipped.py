"""The plan that ships for a model: which published model it most likely is, and so whose plan it gets.

Plans are files plans/<family>/<model>.<preset>.json, or one for all presets.

File names cannot be trusted, so the model's structure decides. Models of one structure get the plan of the likeliest
one: densities of heads correlate by .97 and more between these models, and fine-tunes and LoRAs are relatives too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ....plans.plan.binding import BoundPlan
from ....plans.plan.files import PlanError, load_plan
from ....plans.plan.plan import Plan
from ....plans.plan.published import of_shape
from ..hooks.sampling import Sampling

LOG = logging.getLogger("sparse_vdit")
SHIPPED = Path(__file__).resolve().parents[3] / "plans"
ANY_PRESET = "calibrate"
"""Stands for the preset in names of plans that serve all of them, whose grade it is."""

LATE_START = 0.1  # part of the schedule; one that begins later is the second part of one that was begun elsewhere


@dataclass(frozen=True)
class Variant:
    """A published model.

    Attributes:
        file: name of its plans, without preset and ending.
        why: what says so, in words.
    """

    file: str
    why: str

    def notes(self, shipped: Plan, patched: int) -> list[str]:
        """For the report: why a model gets this shipped plan, and that LoRAs change so many of its weights."""
        taken = f"no plan connected: taken for {shipped.provenance.model} or a fine-tune of it, by {self.why}"
        return [taken, *([f"LoRAs change {patched} weights, which had none where it was measured"] if patched else [])]


def variant(sampling: Sampling) -> Variant | None:
    """The likeliest published model, None where none has these layers and heads."""
    family, shape = sampling.family.name, sampling.family.shape(sampling.model)
    alike = of_shape(family, shape)
    if not alike:
        return None
    file, more = alike[0].file, ""
    if len(alike) > 1:
        file, more = _TELLS[family, shape](sampling.model, _is_part(sampling))
    layers, heads, _ = shape
    return Variant(file, f"{layers} layers of {heads} heads" + (f", {more}" if more else ""))


def _is_part(sampling: Sampling) -> bool:
    """Whether a sampler has one part of a schedule, as those of Wan 2.2's two models do."""
    sigmas = sampling.sigmas
    return bool(sigmas) and (sigmas[-1] > 0 or sigmas[0] < sampling.percent_to_sigma(LATE_START))


def _wan_14b(model: nn.Module, part: bool) -> tuple[str, str]:
    channels = getattr(model, "in_dim", 16)
    if channels == 16:
        if part:
            return "wan2.2_a14b_t2v", "no image channels, one part of a schedule: Wan 2.1 would look the same"
        return "wan2.1_14b_t2v", "no image channels, a whole schedule: Wan 2.2 would look the same"
    relative = "" if channels == 36 else f" (a relative, with {channels} channels)"
    if getattr(model, "img_emb", None) is not None:
        return "wan2.1_14b_i2v", f"image channels and an image encoder's input{relative}"
    return "wan2.2_a14b_i2v", f"image channels without an image encoder's input{relative}"


def _hunyuan_video(model: nn.Module, part: bool) -> tuple[str, str]:
    channels = getattr(model, "in_channels", 16)
    if channels == 16:
        return "hunyuanvideo_t2v", "no image channels: image to video by a replaced frame would look the same"
    return "hunyuanvideo_i2v", f"{channels} channels, with an image"


def _cogvideox_5b(model: nn.Module, part: bool) -> tuple[str, str]:
    in_time = getattr(model, "patch_size_t", None) is not None
    return ("cogvideox_1.5_5b", "patches in time") if in_time else ("cogvideox_5b", "no patches in time")


_TELLS: dict[tuple[str, tuple[int, int, int]], Callable[[nn.Module, bool], tuple[str, str]]] = {
    ("wan", (40, 40, 128)): _wan_14b,
    ("hunyuan_video", (60, 24, 128)): _hunyuan_video,
    ("cogvideox", (42, 48, 64)): _cogvideox_5b,
}
"""What tells published models of one family and (layers, heads, head_dim) apart: name of the plans' files, and why."""


def shipped_plan(
    family: str, shape: tuple[int, int, int], model: str, preset: str, root: Path = SHIPPED
) -> Plan | None:
    """Plan of a published model, by the name of its files, if it fits (layers, heads, head_dim); None without one."""
    for ending in (preset, ANY_PRESET):
        path = root / family / f"{model}.{ending}.json"
        try:
            plan = load_plan(path) if path.is_file() else None
        except (PlanError, OSError) as error:  # a damaged installation
            LOG.warning("Sparse-vDiT: the shipped plan %s cannot be used: %s", path.name, error)
            continue
        if plan is not None and BoundPlan(plan).mismatch(family, *shape) is None:
            return plan.named(f"{family}/{path.stem}")
    return None
