"""The profile: error and density of every candidate per (band, layer, head), measured on real generations.

Kept whole, not only the best candidate, so that another rule or target needs no new measurement.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..kernels.patterns import Pattern

MEASURES = ("projected", "relative", "mse", "kept_mass", "power")
FLOWS = ("dense", "sequential")
MEASURED_ALIKE = (
    "family", "layers", "heads", "head_dim", "grid", "query_tile", "key_tile", "candidates", "bands", "flow",
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

    Raises:
        ValueError: a tensor of another shape than the header says, or a number that is not finite.
    """

    header: ProfileHeader
    measures: dict[str, Tensor]
    votes: Tensor
    samples: Tensor

    def __post_init__(self) -> None:
        head = self.header
        shape = (len(head.bands), head.layers, head.heads, len(head.candidates))
        if set(self.measures) != set(MEASURES):
            raise ValueError(f"profile has the measures {sorted(self.measures)}, expected {sorted(MEASURES)}")
        for name, tensor in (*self.measures.items(), ("votes", self.votes)):
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name} is {tuple(tensor.shape)}, expected {shape} (bands, layers, heads, candidates)"
                )
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} has values that are not finite; profile again")
        if tuple(self.samples.shape) != shape[:2]:
            raise ValueError(f"samples is {tuple(self.samples.shape)}, expected {shape[:2]} (bands, layers)")

    def measured_bands(self) -> list[int]:
        """Numbers of the bands that every layer was observed in."""
        return [band for band, row in enumerate(self.samples.tolist()) if all(count > 0 for count in row)]


def merge_profiles(first: Profile, second: Profile) -> Profile:
    """One profile over the observations of both, for example of several prompts or of both Wan 2.2 experts.

    Raises:
        ValueError: the two were not measured alike; the message names the first difference.
    """
    for name in MEASURED_ALIKE:
        ours, theirs = getattr(first.header, name), getattr(second.header, name)
        if ours != theirs:
            raise ValueError(f"profiles cannot be merged, {name} differs: {ours!r} and {theirs!r}")
    samples = first.samples + second.samples
    share = (first.samples / samples.clamp_min(1)).double()[..., None, None]
    measures = {name: first.measures[name] * share + second.measures[name] * (1 - share) for name in MEASURES}
    prompts = (*first.header.prompts, *(p for p in second.header.prompts if p not in first.header.prompts))
    models = {first.header.model, second.header.model} - {""}
    header = replace(
        first.header,
        prompts=prompts,
        model=" + ".join(sorted(models)),
        projected=first.header.projected and second.header.projected,
        date=max(first.header.date, second.header.date),
    )
    return Profile(header, measures, first.votes + second.votes, samples)
