"""The plan: which pattern each attention head of a model runs, per band of noise levels (sigma)."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...kernels.grid import TokenGrid
from ...kernels.lists import check_work, pattern_densities
from ...kernels.patterns import PATTERNS, Pattern
from ...kernels.tiling import KEY_TILE, QUERY_TILE
from .card import Card, check_card
from .checks import MAX_ENTRIES, MAX_TEXT, check_items, check_name, check_number, check_text, check_whole, show

FOUND = "measured while sampling"
"""Source of plans that runs have found."""

FAMILY = re.compile("[a-z0-9_]{1,40}")
GRADES = ("measured", "prior", "calibrate")

MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM = 512, 256, 1024
MAX_PATTERNS, MAX_BANDS = 1024, 64
# bounds on the work that a plan of unknown origin can cause; 1080p of 161 frames is 335,000 tokens
MAX_VIDEO_TOKENS = 400_000

EVERY_SIGMA = 1e6  # above any noise level that a schedule starts from


@dataclass(frozen=True)
class Band:
    """Noise levels sigma_low < sigma <= sigma_high and their patterns; a sigma_low of 0 covers 0 too.

    `heads[layer][head]` is a number in `Plan.patterns`. A band is checked by the plan that it is part of.
    """

    sigma_high: float
    sigma_low: float
    heads: tuple[tuple[int, ...], ...]

    def covers(self, sigma: float) -> bool:
        """Whether a noise level lies in the band."""
        return self.sigma_low < sigma <= self.sigma_high or sigma == self.sigma_low == 0

    def levels(self) -> str:
        """Its noise levels in words, for example `noise 0.93 to 0.5`."""
        if self.sigma_high >= EVERY_SIGMA:
            return f"noise above {self.sigma_low:.4g}" if self.sigma_low else "all noise levels"
        return f"noise {self.sigma_high:.4g} to {self.sigma_low:.4g}"


@dataclass(frozen=True)
class Provenance:
    """Where a plan comes from: enough to judge it, and to make it again."""

    model: str = ""
    rule: str = ""
    parameters: dict[str, float | int | str] = field(default_factory=dict, hash=False)
    prompts: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    date: str = ""
    source: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Plan:
    """Patterns of all heads of a model. Noise levels that no band covers stay dense.

    Attributes:
        family: architecture, for example `wan`.
        grid: (frames, height, width) in tokens of the measurement; windows are relative, so a plan serves other grids.
        bands: in falling order of sigma, without overlap.
        grade: `measured` on the model itself, `prior` where less than the patterns was measured, or `calibrate`, not
            measured yet.
        card: what a plan that ships with the pack says of itself, None for all others.
        name: under which it was loaded; no part of its file, nor of what makes plans equal.

    Raises:
        ValueError: anything out of range; the message begins with the field, named as in the plan's JSON form.
    """

    family: str
    layers: int
    heads: int
    head_dim: int
    grid: tuple[int, int, int]
    patterns: tuple[Pattern, ...]
    bands: tuple[Band, ...]
    grade: str
    provenance: Provenance
    card: Card | None = None
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_family(self.family)
        check_whole("layers", self.layers, 1, MAX_LAYERS)
        check_whole("heads", self.heads, 1, MAX_HEADS)
        check_whole("head_dim", self.head_dim, 1, MAX_HEAD_DIM)
        check_grid(self.grid)
        if self.grade not in GRADES:
            raise ValueError(f"grade: {show(self.grade)} is unknown, expected one of {', '.join(GRADES)}")
        check_items("patterns", self.patterns, Pattern, 1, MAX_PATTERNS)
        check_items("bands", self.bands, Band, 1, MAX_BANDS)
        try:
            check_work(self.patterns, math.prod(self.grid))
        except ValueError as error:
            raise ValueError(f"patterns: {error}") from None
        _check_sigmas(self.bands)
        for number, band in enumerate(self.bands):
            _check_heads(f"bands[{number}].heads", band.heads, self.layers, self.heads, len(self.patterns))
        check_provenance("provenance", self.provenance)
        if self.card is not None:
            check_card("card", self.card, self.layers, self.heads)

    def named(self, name: str) -> Plan:
        """The same plan under a name."""
        return replace(self, name=name)

    @property
    def label(self) -> str:
        """The name, or where the plan comes from."""
        return self.name or self.provenance.rule or self.provenance.source or self.grade

    def title(self) -> str:
        """The label with what was measured of the plan, for reports."""
        if self.grade == "calibrate":  # nothing
            return self.label
        return f"{self.label} ({FOUND if self.provenance.source == FOUND else self.grade})"

    def band_at(self, sigma: float) -> int | None:
        """Number of the band that covers a noise level, None where attention stays dense."""
        return next((number for number, band in enumerate(self.bands) if band.covers(sigma)), None)

    def pattern(self, band: int, layer: int, head: int) -> Pattern:
        """The pattern of a head in a band."""
        return self.patterns[self.bands[band].heads[layer][head]]

    def pattern_densities(
        self, grid: TokenGrid | None = None, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE
    ) -> dict[int, float]:
        """Density of each pattern that a head uses, by its number, on a grid (default: the measured one, no text)."""
        used = sorted(self._uses())
        patterns = [self.patterns[number] for number in used]
        found = pattern_densities(patterns, grid or TokenGrid(*self.grid), query_tile, key_tile)
        return dict(zip(used, found, strict=True))

    def density(self, grid: TokenGrid | None = None, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE) -> float:
        """Computed query-key pairs / all pairs, mean over bands, layers and heads (default: the measured grid)."""
        densities = self.pattern_densities(grid, query_tile, key_tile)
        return mean_density(densities, (band.heads for band in self.bands))

    def counts(self) -> dict[str, int]:
        """How many heads, over all bands and layers, run each kind of pattern; kinds that none runs are 0."""
        counts = dict.fromkeys(PATTERNS, 0)
        for number, count in self._uses().items():
            counts[self.patterns[number].kind] += count
        return counts

    def _uses(self) -> Counter[int]:
        return Counter(number for band in self.bands for row in band.heads for number in row)


def uniform_plan(
    family: str,
    layers: int,
    heads: int,
    head_dim: int,
    grid: tuple[int, int, int],
    pattern: Pattern,
    *,
    sigma_high: float = EVERY_SIGMA,
    sigma_low: float = 0.0,
    grade: str = "calibrate",
    provenance: Provenance | None = None,
) -> Plan:
    """Plan with one pattern for every head and, unless sigmas are given, every noise level."""
    check_whole("layers", layers, 1, MAX_LAYERS)
    check_whole("heads", heads, 1, MAX_HEADS)
    band = Band(sigma_high, sigma_low, ((0,) * heads,) * layers)
    if provenance is None:
        provenance = Provenance(rule="uniform")
    return Plan(family, layers, heads, head_dim, grid, (pattern,), (band,), grade, provenance)


def mean_density(densities: Mapping[int, float] | Sequence[float], tables: Iterable[Sequence[Sequence[int]]]) -> float:
    """Mean over heads of densities[number]; a table has one number per (layer, head)."""
    numbers = [number for table in tables for row in table for number in row]
    return sum(densities[number] for number in numbers) / len(numbers)


def clean_text(text: str) -> str:
    """A text as a plan may hold it: in one line, cut where it is too long."""
    kept = "".join(" " if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in text)
    return " ".join(kept.split())[:MAX_TEXT]


def check_family(family: object) -> None:
    """Raise ValueError unless this is the name of an architecture."""
    if not isinstance(family, str) or not FAMILY.fullmatch(family):
        raise ValueError(f"family: {show(family)}, expected 1 to 40 of the signs a-z, 0-9 and _")


def check_grid(grid: object) -> None:
    """Raise ValueError unless these are (frames, height, width) of a video that the pack may work on."""
    if not isinstance(grid, tuple) or len(grid) != 3:
        raise ValueError(f"grid: {show(grid)}, expected three numbers of tokens (frames, height, width)")
    for axis, size in enumerate(grid):
        check_whole(f"grid[{axis}]", size, 1, MAX_VIDEO_TOKENS)
    if math.prod(grid) > MAX_VIDEO_TOKENS:
        raise ValueError(f"grid: {show(grid)} has {math.prod(grid)} tokens, expected at most {MAX_VIDEO_TOKENS}")


def _check_sigmas(bands: tuple[Band, ...]) -> None:
    above = math.inf
    for number, band in enumerate(bands):
        path = f"bands[{number}]"
        check_number(f"{path}.sigma_high", band.sigma_high)
        check_number(f"{path}.sigma_low", band.sigma_low)
        if band.sigma_low < 0:
            raise ValueError(f"{path}.sigma_low: {band.sigma_low} is below 0")
        if band.sigma_low >= band.sigma_high:
            raise ValueError(f"{path}.sigma_low: {band.sigma_low} is not below sigma_high, which is {band.sigma_high}")
        if band.sigma_high > above:
            raise ValueError(
                f"{path}.sigma_high: {band.sigma_high} is above {above}, where the band before it ends; "
                "expected bands in falling order of sigma that do not overlap"
            )
        above = band.sigma_low


def _check_heads(path: str, table: tuple[tuple[int, ...], ...], layers: int, heads: int, patterns: int) -> None:
    check_items(path, table, tuple, layers, layers)
    for layer, row in enumerate(table):
        if len(row) != heads:
            raise ValueError(f"{path}[{layer}]: {len(row)} entries, expected one for each of {heads} heads")
        for head, number in enumerate(row):
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < patterns:
                there = f"there are {patterns} (0 to {patterns - 1})" if patterns > 1 else "there is only 0"
                raise ValueError(f"{path}[{layer}][{head}]: {show(number)} is no number of a pattern, {there}")


def check_provenance(path: str, value: object) -> None:
    """Raise ValueError, naming the field, unless a plan may say this of where it comes from."""
    if not isinstance(value, Provenance):
        raise ValueError(f"{path}: {show(value)} is no Provenance")
    for name in ("model", "rule", "date", "source"):
        check_name(f"{path}.{name}", getattr(value, name))
    check_text(f"{path}.notes", value.notes)
    check_items(f"{path}.prompts", value.prompts, str, 0, MAX_ENTRIES)
    for number, prompt in enumerate(value.prompts):
        check_text(f"{path}.prompts[{number}]", prompt)
    for name in ("parameters", "versions"):
        _check_table(f"{path}.{name}", getattr(value, name), numbers=name == "parameters")


def _check_table(path: str, table: object, numbers: bool) -> None:
    if not isinstance(table, dict) or len(table) > MAX_ENTRIES:
        given = f"{len(table)} entries" if isinstance(table, dict) else show(table)
        raise ValueError(f"{path}: {given}, expected a table of at most {MAX_ENTRIES} entries")
    for name, value in table.items():
        check_name(f"{path}, a name in it", name)
        if numbers and not isinstance(value, str):
            check_number(f"{path}.{name}", value)
        else:
            check_name(f"{path}.{name}", value)
