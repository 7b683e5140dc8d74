"""The profile: error and density of every candidate per (band, layer, head), measured on real generations.

Kept whole, not only the best candidate, so that another rule or target needs no new measurement.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...kernels.patterns import Pattern
from ..plan.checks import MAX_ENTRIES, MAX_NAME
from .columns import cell_grid
from .head_maps import part_count

MEASURES = ("projected", "relative", "mse", "kept_mass", "power", "square")
MAX_SAMPLES = 1 << 31
FLOWS = ("dense", "sequential")
MEASURED_ALIKE = (
    "family", "layers", "heads", "head_dim", "query_tile", "key_tile", "candidates", "flow", "projected",
)  # fmt: skip


@dataclass(frozen=True)
class ProfileHeader:
    """What was measured and how; two profiles with equal headers (prompts and date aside) can be merged.

    Attributes:
        grid: (frames, height, width) in tokens.
        candidates: patterns judged; the first is dense.
        densities: of each candidate on the grid.
        bands: (sigma_high, sigma_low) in falling order.
        flow: `dense`, or `sequential` when the chosen sparse outputs flowed on (Algorithm 1 of the paper).
        projected: whether errors went through the output projection; plain ||dO||^2 otherwise.
    """

    family: str
    model: str
    layers: int
    heads: int
    head_dim: int
    grid: tuple[int, int, int]
    query_tile: int
    key_tile: int
    candidates: tuple[Pattern, ...]
    densities: tuple[float, ...]
    bands: tuple[tuple[float, float], ...]
    flow: str = "dense"
    projected: bool = True
    parameters: dict[str, float | int | str] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""


@dataclass(frozen=True)
class Profile:
    """Measures, each a mean over observations: float64 (bands, layers, heads, candidates), see `errors.HeadErrors`.

    Attributes:
        measures: by the names in MEASURES.
        votes: how often Algorithm 1 chose each candidate, (bands, layers, heads, candidates); zeros in dense flow.
        samples: observations per (bands, layers), int64.
        columns: share of the softmax mass in each cell of the video (`columns.Cells`), float32 (bands, layers, heads,
            cells).
        maps: what each head attends between parts of the video (`head_maps`), over all bands, float32 (layers, heads,
            parts, parts); None where it was not kept.

    Raises:
        ValueError: a tensor of another shape than the header says, or a number that is not finite.
    """

    header: ProfileHeader
    measures: dict[str, Tensor]
    votes: Tensor
    samples: Tensor
    columns: Tensor
    maps: Tensor | None = None

    def __post_init__(self) -> None:
        if set(self.measures) != set(MEASURES):
            raise ValueError(f"profile has the measures {sorted(self.measures)}, expected {sorted(MEASURES)}")
        head = self.header
        layers, cells, parts = (len(head.bands), head.layers), math.prod(cell_grid(head.grid)), part_count(head.grid)
        axes = "bands, layers, heads"
        for name, tensor in (*self.measures.items(), ("votes", self.votes)):
            _check_tensor(name, tensor, (*layers, head.heads, len(head.candidates)), f"{axes}, candidates")
        _check_tensor("columns", self.columns, (*layers, head.heads, cells), f"{axes}, cells")
        _check_tensor("samples", self.samples, layers, "bands, layers")
        if self.samples.numel() and self.samples.max() > MAX_SAMPLES:
            raise ValueError(f"samples has {self.samples.max()}, expected at most {MAX_SAMPLES} observations")
        if self.maps is not None:
            _check_tensor("maps", self.maps, (head.layers, head.heads, parts, parts), "layers, heads, parts, parts")

    def sampling_variance(self) -> Tensor:
        """Variance of the measure `projected` that comes from sampling rows: float64, shaped as it.

        Rows are counted as if independent. That other prompts give other means is not in it: that takes profiles of
        several prompts to see.
        """
        rows = self.header.parameters.get("rows")
        rows = rows if isinstance(rows, (int, float)) and rows >= 1 else 1  # text where merged profiles differ
        seen = rows * self.samples.clamp_min(1)[..., None, None]
        return (self.measures["square"] - self.measures["projected"].square()).clamp_min(0) / seen

    def measured_bands(self) -> list[int]:
        """Numbers of the bands that every layer was observed in."""
        return [band for band, row in enumerate(self.samples.tolist()) if all(count > 0 for count in row)]


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], axes: str) -> None:
    """Raise ValueError unless a tensor has this shape and numbers from 0 on."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {shape} ({axes})")
    if not torch.isfinite(tensor).all() or (tensor < 0).any():
        raise ValueError(f"{name} has values that are not finite or below zero; profile again")


def check_mergeable(first: ProfileHeader, second: ProfileHeader) -> None:
    """Raise ValueError, naming the first difference, unless profiles with these headers can be merged."""
    if first.grid != second.grid:
        ours, theirs = ("x".join(map(str, header.grid)) for header in (first, second))
        raise ValueError(
            f"profiles cannot be merged, one is of a video of {ours} tokens (frames x height x width) and the other of "
            f"{theirs}: profile both at the same size and length"
        )
    for name in MEASURED_ALIKE:
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours != theirs:
            how = differing_candidates(ours, theirs) if name == "candidates" else f"{ours!r} and {theirs!r}"
            hint = "measure again with this version of the pack" if name == "candidates" else "measure both alike"
            raise ValueError(f"profiles cannot be merged, {name} differs: {how}; {hint}")
    for name in ("lambda", "epsilon") if first.flow == "sequential" else ():
        one, other = (header.parameters.get(name) for header in (first, second))
        if one != other:
            raise ValueError(f"profiles of sequential flow cannot be merged, {name} differs: {one!r} and {other!r}")
    joined = sorted({*first.bands, *second.bands}, reverse=True)
    if first.bands != second.bands and (
        {*first.bands} & {*second.bands} or any(low < high for (_, low), (high, _) in itertools.pairwise(joined))
    ):
        ours, theirs = (", ".join(f"{high:.3g} to {low:.3g}" for high, low in h.bands[:8]) for h in (first, second))
        raise ValueError(
            f"profiles cannot be merged, the noise levels of one ({ours}) overlap those of the other ({theirs}) "
            "without being the same: measure both with the same sigmas, bands and start_percent"
        )


def differing_candidates(ours: Sequence[Pattern], theirs: Sequence[Pattern]) -> str | None:
    """How two lists of candidates differ, in words: there are too many to name them all. None where they do not."""
    pairs = enumerate(itertools.zip_longest(ours, theirs))
    number = next((number for number, (one, other) in pairs if one != other), None)
    if number is None:
        return None
    one, other = (repr(some[number])[:MAX_NAME] if number < len(some) else "none" for some in (ours, theirs))
    return f"{len(ours)} and {len(theirs)} of them, the first other one is number {number}, {one} and {other}"


def merge_profiles(first: Profile, second: Profile) -> Profile:
    """One profile over the observations of both: means over equal bands, for example of several prompts, or the bands
    of both where they do not overlap, for example of the two Wan 2.2 experts.

    Raises:
        ValueError: the two were not measured alike; the message names the first difference.
    """
    check_mergeable(first.header, second.header)
    if first.header.bands != second.header.bands:
        return _join_bands(first, second)
    samples = first.samples + second.samples
    share = (first.samples / samples.clamp_min(1)).double()[..., None, None]
    measures = {name: first.measures[name] * share + second.measures[name] * (1 - share) for name in MEASURES}
    columns = (first.columns * share + second.columns * (1 - share)).float()
    header, votes = _merged_header(first, second, first.header.bands), first.votes + second.votes
    return Profile(header, measures, votes, samples, columns, _merged_maps(first, second))


def _join_bands(first: Profile, second: Profile) -> Profile:
    """Both profiles' bands side by side, in falling order."""
    parts = [(band, profile, row) for profile in (first, second) for row, band in enumerate(profile.header.bands)]
    parts.sort(key=lambda part: part[0], reverse=True)
    bands = tuple(band for band, _, _ in parts)
    measures = {name: torch.stack([p.measures[name][row] for _, p, row in parts]) for name in MEASURES}
    votes = torch.stack([p.votes[row] for _, p, row in parts])
    samples = torch.stack([p.samples[row] for _, p, row in parts])
    columns = torch.stack([p.columns[row] for _, p, row in parts])
    header = _merged_header(first, second, bands)
    return Profile(header, measures, votes, samples, columns, _merged_maps(first, second))


def _merged_maps(first: Profile, second: Profile) -> Tensor | None:
    """Maps of both by their observations, of one where the other has none."""
    if first.maps is None or second.maps is None:
        return second.maps if first.maps is None else first.maps
    seen, more = (profile.samples.sum(0)[:, None, None, None] for profile in (first, second))
    return ((first.maps * seen + second.maps * more) / (seen + more).clamp_min(1)).float()


def _merged_header(first: Profile, second: Profile, bands: tuple[tuple[float, float], ...]) -> ProfileHeader:
    models = {first.header.model, second.header.model} - {""}
    prompts = (*first.header.prompts, *(p for p in second.header.prompts if p not in first.header.prompts))
    return replace(
        first.header,
        bands=bands,
        prompts=prompts[:MAX_ENTRIES],
        parameters=_both(first.header.parameters, second.header.parameters),
        versions=_both(first.header.versions, second.header.versions),
        model=" + ".join(sorted(models))[:MAX_NAME],
        date=max(first.header.date, second.header.date),
    )


def _both(first: dict, second: dict) -> dict:
    """Entries of both; where they differ, both values as text, but of sampled rows the fewer: errors are no surer."""
    differing = {name: f"{first[name]}, {value}"[:MAX_NAME] for name, value in second.items()
                 if name in first and first[name] != value}  # fmt: skip
    rows = [entries["rows"] for entries in (first, second) if isinstance(entries.get("rows"), (int, float))]
    return {**second, **first, **differing, **({"rows": min(rows)} if len(rows) == 2 else {})}
