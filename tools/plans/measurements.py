"""Reads the public measurements under tools/measurements; its README says what they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[1] / "measurements"
SVOO, SPARGE = "svoo_density", "spargeattn_cogvideox2b"
STA = "sta_hunyuan"
COMMITS = {
    SVOO: {"SVOO": "e4ae67b579766bcbe820bda7d34e104ff4c82d5f"},
    STA: {"FastVideo": "6edf113838c3f5106190f0a0034c7d5894614d82"},
    SPARGE: {"SpargeAttn": "bfd980b"},
}
"""Of the repositories that the files come from."""

WARM_UP = 0.2  # share of the steps that plans leave dense, and that is not what they are made for
STA_FIRST = 15  # step from which on STA's windows run


@cache
def _file(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def measured_models() -> tuple[str, ...]:
    """Names of the models whose densities were measured."""
    return tuple(_file(SVOO))


def key_densities(model: str) -> np.ndarray:
    """Part of the keys with 95 % of the mass, float64 (steps, layers, heads)."""
    return _file(SVOO)[model].astype(np.float64)


def mean_key_densities(model: str, first: int | None = None, end: int | None = None) -> np.ndarray:
    """Mean of `key_densities` over steps first..end, from the end of the warm-up to the last by default."""
    densities = key_densities(model)
    return densities[round(WARM_UP * len(densities)) if first is None else first : end].mean(0)


def sta_windows() -> np.ndarray:
    """Window of each HunyuanVideo head in most of STA's steps, tokens of time, height and width: (layers, heads, 3)."""
    data = _file(STA)
    steps = data["index"][STA_FIRST:]
    votes = np.stack([(steps == number).sum(0) for number in range(len(data["windows"]))])
    return (data["windows"] * data["tile"])[votes.argmax(0)]


def sta_grid() -> tuple[int, int, int]:
    """Token grid of STA's windows."""
    frames, height, width = _file(STA)["grid"].tolist()
    return frames, height, width


def never_sparse_cogvideox_2b() -> np.ndarray:
    """Heads of CogVideoX 2B that SpargeAttn's tuning left dense, bool (layers, heads)."""
    return ~_file(SPARGE)["is_sparse"]
