"""Every plan that ships, made from the public measurements: the same bytes on every machine.

`python benchmarks/build_plans.py` writes them. Not part of the installed pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .building.cards import cogvideox_2b, unmeasured
from .building.models import COGVIDEOX_2B, HUNYUAN_T2V, PRIORS, UNMEASURED, Published
from .building.priors import prior
from .building.windows import windows
from .plan.files import plan_bytes
from .plan.plan import Plan
from .plan.presets import PRESETS

ROOT = Path(__file__).resolve().parent
ANY = "calibrate"
"""Stands in the place of the preset in the names of plans for all presets."""


def shipped_files() -> dict[Path, bytes]:
    """Content of every shipped file, by its path."""
    return {file_of(published, preset): plan_bytes(plan) for published, preset, plan in _plans()}


def file_of(published: Published, preset: str) -> Path:
    """Where the plan of a model and preset lies."""
    return ROOT / published.family / f"{published.file}.{preset}.json"


def _plans() -> Iterator[tuple[Published, str, Plan]]:
    for preset in PRESETS:
        yield HUNYUAN_T2V, preset, windows(preset)
        for published in PRIORS:
            yield published, preset, prior(published, preset)
    yield COGVIDEOX_2B, ANY, cogvideox_2b()
    for published in UNMEASURED:
        yield published, ANY, unmeasured(published)
