"""Calibrated plans of a model in the user's folder, each beside the profile that it was searched from.

They are found by what the model's numbers are, not by names. What lies there is not trusted: a file that cannot be
read, was measured otherwise than now, or is of something else than its name says, is put aside under another name and
never overwritten or deleted.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ....kernels.patterns import Pattern
from ....plans.plan.binding import FAR, BoundPlan
from ....plans.plan.files import PlanError, load_plan, plan_bytes
from ....plans.plan.plan import Plan
from ....plans.plan.writing import write_new
from ....plans.profile.profile import Profile, ProfileHeader
from ....plans.profile.profile_files import ProfileError, load_header, load_profile, profile_bytes
from ..plan_choice.fingerprint import Fingerprint, read_fingerprint
from ..plan_choice.plan_names import named
from .calibrated_plan import FINGERPRINT, measured_among, outdated

LOG = logging.getLogger("sparse_vdit")
CALIBRATED = "calibrated"
"""Their folder among the user's plans."""
PREFIX = f"user/{CALIBRATED}/"
"""Of the names that Load Sparse Plan lists them by."""

KEPT_AS = "kept as "
NOT_CALIBRATED, OTHER_MODEL = "it was not made while sampling", "it is of another model"

Grid = tuple[int, int, int]
Read = TypeVar("Read")


@dataclass(frozen=True)
class Kept:
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


class KeptPlans:
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

    def find(self, grid: Grid | None) -> Kept | None:
        """The profile of this model at a grid, or at the nearest one that is not far from it; any where the grid is not
        known."""
        if self.fingerprint is None or not self.folder.is_dir():
            return None
        found = []
        for path in sorted(self.folder.glob(f"{self._architecture()}-*.safetensors")):
            header = self._header(path)
            if header is not None and self._is_ours(header) and _far(header.grid, grid) <= FAR:
                found.append((_far(header.grid, grid), self._distance(header), path))
        for *_, path in sorted(found):
            profile = self._profile(path)
            if profile is not None:
                return Kept(path.with_suffix(""), profile)
        return None

    def plan(self, kept: Kept, preset: str) -> Plan | None:
        """The plan of a preset beside a profile, None where there is none of use."""
        path = plan_path(kept.stem, preset)
        plan = self._plan(path) if path.exists() else None
        return None if plan is None else named(plan, plan_name(kept.stem, preset))

    def keep(self, profile: Profile, plan: Plan, preset: str, before: Kept | None) -> str:
        """Keep what a run has found, in the place of what it began with; says where, or why not."""
        if self.fingerprint is None:
            return "not kept: nothing tells this model from others"
        stem = self.folder / f"{self._architecture()}-{self.fingerprint.digest}-{_text(profile.header.grid)}"
        if before is not None and before.grid == profile.header.grid:
            stem = before.stem
        return self._write(stem, preset, plan, {Path(f"{stem}.safetensors"): profile_bytes(profile)})

    def keep_plan(self, kept: Kept, plan: Plan, preset: str) -> str:
        """Keep a plan that was searched from a profile that is kept already, and perhaps has grown since; as `keep`."""
        return self._write(kept.stem, preset, plan, {})

    def _write(self, stem: Path, preset: str, plan: Plan, beside: dict[Path, bytes]) -> str:
        """Write a plan and what belongs beside it, or nothing where one of them is in the way."""
        files = {**beside, plan_path(stem, preset): plan_bytes(plan)}
        try:
            for path in files:
                if path.exists():  # what is none of ours is put aside
                    (self._profile if path in beside else self._plan)(path)
                if path in self._stuck:
                    return f"not kept: {path.name} is in the way"
            self.folder.mkdir(parents=True, exist_ok=True)
            for path, content in files.items():
                write_new(path, content, overwrite=True)
        except OSError as error:
            return f"not kept: {error}"
        named(plan, plan_name(stem, preset))
        return f"{KEPT_AS}{plan_name(stem, preset)}"

    def _distance(self, header: ProfileHeader) -> float:
        return self.fingerprint.distance(read_fingerprint(header.parameters[FINGERPRINT]))

    def _is_ours(self, header: ProfileHeader) -> bool:
        """Whether a profile is of this model. One that is the same up to rounding alone may be the other expert of Wan
        2.2, which other noise levels tell."""
        distance = self._distance(header)
        return distance == 0 or (distance <= 1 and measured_among(header, self.sigmas))

    def _architecture(self) -> str:
        return f"{self.family}-{_text(self.shape)}"

    def _header(self, path: Path) -> ProfileHeader | None:
        return self._read(path, load_header, self._foreign_header)

    def _profile(self, path: Path) -> Profile | None:
        return self._read(path, load_profile, lambda profile: self._foreign_profile(profile.header))

    def _plan(self, path: Path) -> Plan | None:
        return self._read(path, load_plan, self._foreign_plan)

    def _foreign_plan(self, plan: Plan) -> str | None:
        """Why a plan is none of this model's, None where it is one."""
        known = read_fingerprint(plan.provenance.parameters.get(FINGERPRINT))
        if known is None:
            return NOT_CALIBRATED
        why = BoundPlan(plan).mismatch(self.family, *self.shape)
        return why or (None if self.fingerprint.distance(known) <= 1 else OTHER_MODEL)

    def _foreign_profile(self, header: ProfileHeader) -> str | None:
        """Why a profile is none that this model's runs can add to, None where it is one."""
        why = self._foreign_header(header) or outdated(header, self.candidates)
        return why or (None if self._distance(header) <= 1 else OTHER_MODEL)

    def _foreign_header(self, header: ProfileHeader) -> str | None:
        """Why a profile is none of models like this one, None where it is one."""
        if read_fingerprint(header.parameters.get(FINGERPRINT)) is None:
            return NOT_CALIBRATED
        shape = header.layers, header.heads, header.head_dim
        known = header.family, *shape
        return None if known == (self.family, *self.shape) else f"it is of {header.family}, {_text(shape)}"

    def _read(self, path: Path, load: Callable[[Path], Read], foreign: Callable[[Read], str | None]) -> Read | None:
        """What a file holds; None, and the file is put aside, where it is broken or of no use for `foreign` reasons."""
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
        self._put_aside(path, why)
        return None

    def _put_aside(self, path: Path, why: str) -> None:
        names = (path.with_name(f"{path.name}.aside{number or ''}") for number in itertools.count())
        target = next(name for name in names if not name.exists())
        try:
            path.rename(target)
        except OSError as error:
            self._stuck.add(path)
            self._say(f"{path.name} is of no use: {why}; it could not be put aside: {error}")
            return
        self._say(f"{path.name} cannot be used and was put aside as {target.name}: {why}")

    def _say(self, text: str) -> None:
        if text not in self.messages:  # what is in the way is met again when the run ends
            LOG.warning("Sparse-vDiT: %s", text)
            self.messages.append(text)


def plan_path(stem: Path, preset: str) -> Path:
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
