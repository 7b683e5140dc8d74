"""Plans that were found while sampling, in the user's folder, each beside the profile that it was searched from.

They are found by what the model's numbers are, not by names. What lies there is not trusted: a file that cannot be
read, was measured otherwise than now, or does not hold what its name says is renamed, and never overwritten or
deleted.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ....kernels.patterns import Pattern
from ....plans.plan.binding import FAR, BoundPlan
from ....plans.plan.files import PlanError, load_plan, plan_bytes
from ....plans.plan.plan import Plan
from ....plans.plan.writing import alone, write_new
from ....plans.profile.profile import Profile, ProfileHeader
from ....plans.profile.profile_files import ProfileError, load_header, load_profile, profile_bytes
from . import found
from .fingerprint import Fingerprint, read_fingerprint
from .found import FINGERPRINT

LOG = logging.getLogger("sparse_vdit")
CALIBRATED = "calibrated"
"""Their folder among the user's plans."""
PREFIX = f"user/{CALIBRATED}/"
"""Of the names that Load Sparse Plan lists them by."""

NOT_FOUND_HERE, OTHER_MODEL = "it was not made while sampling", "it is of another model"

Grid = tuple[int, int, int]
Read = TypeVar("Read")


@dataclass(frozen=True)
class Stored:
    """A profile that was found.

    Attributes:
        stem: path of its files without endings.
        profile: the measures.
    """

    stem: Path
    profile: Profile

    @property
    def grid(self) -> Grid:
        """That it was measured on, (frames, height, width) in tokens."""
        return self.profile.header.grid


class PlanStore:
    """What is kept of one model.

    Args:
        folder: of calibrated plans; made when the first is kept.
        family, shape: architecture, with (layers, heads, head_dim).
        fingerprint: of the model; None keeps and finds nothing.
        candidates: that runs measure.
        sigmas: noise levels of the run.
    """

    def __init__(
        self,
        folder: Path,
        family: str,
        shape: tuple[int, int, int],
        fingerprint: Fingerprint | None,
        candidates: tuple[Pattern, ...],
        sigmas: tuple[float, ...],
    ):
        self.folder, self.family, self.shape = folder, family, shape
        self.fingerprint, self.candidates, self.sigmas = fingerprint, candidates, sigmas
        self.messages: list[str] = []
        self._stuck: set[Path] = set()
        self._architecture = f"{family}-{_text(shape)}"

    def alone(self) -> AbstractContextManager[None]:
        """No other ComfyUI adds to what is kept of this architecture meanwhile."""
        return alone(self.folder / self._architecture)

    def find(self, grid: Grid | None) -> Stored | None:
        """The profile of this model at a grid, or at the nearest one that is not far from it; any where the grid is not
        known."""
        if self.fingerprint is None or not self.folder.is_dir():
            return None
        near = []
        for path in sorted(self.folder.glob(f"{self._architecture}-*.safetensors")):
            header = self._read(path, load_header, self._foreign_header)
            if header is not None and self._is_ours(header) and _far(header.grid, grid) <= FAR:
                near.append((_far(header.grid, grid), self._distance(header), path))
        for *_, path in sorted(near):
            profile = self._read(path, load_profile, self._foreign_profile)
            if profile is not None:
                return Stored(path.with_suffix(""), profile)
        return None

    def plan(self, stored: Stored, preset: str) -> Plan | None:
        """The plan of a preset that was kept with a profile, None without a usable one."""
        path = _plan_path(stored.stem, preset)
        plan = self._read(path, load_plan, self._foreign_plan) if path.exists() else None
        return None if plan is None else plan.named(plan_name(stored.stem, preset))

    def keep(self, profile: Profile, plan: Plan, preset: str, before: Stored | None) -> str:
        """Keep what a run has found, in the place of what it began with; says where, or why not."""
        if self.fingerprint is None:
            return "not kept: nothing tells this model from others"
        stem = self.folder / f"{self._architecture}-{self.fingerprint.digest}-{_text(profile.header.grid)}"
        if before is not None and before.grid == profile.header.grid:
            stem = before.stem
        return self._write(stem, preset, plan, {Path(f"{stem}.safetensors"): profile_bytes(profile)})

    def keep_plan(self, stored: Stored, plan: Plan, preset: str) -> str:
        """Keep a plan that was searched from a profile that is kept already, and perhaps has grown since; as `keep`."""
        return self._write(stored.stem, preset, plan, {})

    def _write(self, stem: Path, preset: str, plan: Plan, profile: dict[Path, bytes]) -> str:
        """Write a plan and its profile, or nothing where one of them is in the way."""
        files = {**profile, _plan_path(stem, preset): plan_bytes(plan)}
        try:
            for path in files:
                if path.exists():  # a file that is not ours is renamed
                    if path in profile:
                        self._read(path, load_profile, self._foreign_profile)
                    else:
                        self._read(path, load_plan, self._foreign_plan)
                if path in self._stuck:
                    return f"not kept: {path.name} is in the way"
            self.folder.mkdir(parents=True, exist_ok=True)
            for path, content in files.items():
                write_new(path, content, overwrite=True)
        except OSError as error:
            return f"not kept: {error}"
        return f"kept as {plan_name(stem, preset)}"

    def _distance(self, header: ProfileHeader) -> float:
        return self.fingerprint.distance(read_fingerprint(header.parameters[FINGERPRINT]))

    def _is_ours(self, header: ProfileHeader) -> bool:
        """Whether a profile is of this model. One that is the same up to rounding alone may be the other expert of Wan
        2.2, which other noise levels tell."""
        distance = self._distance(header)
        return distance == 0 or (distance <= 1 and found.measured_among(header, self.sigmas))

    def _foreign_plan(self, plan: Plan) -> str | None:
        """Why a plan is not of this model, None where it is."""
        known = read_fingerprint(plan.provenance.parameters.get(FINGERPRINT))
        if known is None:
            return NOT_FOUND_HERE
        why = BoundPlan(plan).mismatch(self.family, *self.shape)
        return why or (None if self.fingerprint.distance(known) <= 1 else OTHER_MODEL)

    def _foreign_profile(self, profile: Profile) -> str | None:
        """Why this model's runs cannot add to a profile, None where they can."""
        why = self._foreign_header(profile.header) or found.outdated(profile.header, self.candidates)
        return why or (None if self._distance(profile.header) <= 1 else OTHER_MODEL)

    def _foreign_header(self, header: ProfileHeader) -> str | None:
        """Why a profile is not of a model like this one, None where it is."""
        if read_fingerprint(header.parameters.get(FINGERPRINT)) is None:
            return NOT_FOUND_HERE
        shape = header.layers, header.heads, header.head_dim
        known = header.family, *shape
        return None if known == (self.family, *self.shape) else f"it is of {header.family}, {_text(shape)}"

    def _read(self, path: Path, load: Callable[[Path], Read], foreign: Callable[[Read], str | None]) -> Read | None:
        """Content of a file. None where it is damaged or `foreign` gives a reason; the file is then renamed."""
        try:
            content = load(path)
            why = foreign(content)
        except (PlanError, ProfileError) as error:
            content, why = None, str(error)
        except OSError as error:
            self._stuck.add(path)
            self._say(f"{path.name} could not be read: {error}")
            return None
        if why is None:
            self._stuck.discard(path)  # where it could not be read just now
            return content
        self._rename(path, why)
        return None

    def _rename(self, path: Path, why: str) -> None:
        names = (path.with_name(f"{path.name}.aside{number or ''}") for number in itertools.count())
        target = next(name for name in names if not name.exists())
        try:
            path.rename(target)
        except OSError as error:
            self._stuck.add(path)
            self._say(f"{path.name} cannot be used: {why}; it could not be renamed: {error}")
            return
        self._say(f"{path.name} cannot be used and was renamed to {target.name}: {why}")

    def _say(self, text: str) -> None:
        if text not in self.messages:  # what is in the way is met again when the run ends
            LOG.warning("Sparse-vDiT: %s", text)
            self.messages.append(text)


def _plan_path(stem: Path, preset: str) -> Path:
    """File of a preset's plan."""
    return stem.with_name(f"{stem.name}.{preset}.json")


def plan_name(stem: Path, preset: str) -> str:
    """Its name in Load Sparse Plan."""
    return f"{PREFIX}{stem.name}.{preset}"


def _far(one: Grid, other: Grid | None) -> float:
    """How many times as large the two grids are along the axis where they differ most."""
    if other is None:
        return 1.0
    return math.exp(max(abs(math.log(a / b)) for a, b in zip(one, other, strict=True)))


def _text(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
