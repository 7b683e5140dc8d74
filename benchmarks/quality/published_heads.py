"""Heads of real models as they were measured: how sparse, and which windows suit them. Data of tools/measurements.

Densities are SVOO's (arXiv 2603.18636): the mean over queries of the smallest part of the keys with 95 % of the softmax
mass. Windows are those that STA chose for HunyuanVideo (arXiv 2502.04507).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.quality.head_generator import KINDS, Head
from benchmarks.report.result_files import ROOT

FOLDER = ROOT / "tools" / "measurements"
DENSITIES, WINDOWS = "svoo_density.npz", "sta_hunyuan.npz"
WARMUP = 0.2  # of the steps
RECORDED = {"wan14b_720p": "wan_14B_t2v", "hunyuan_720p": "hunyuan10_13B_t2v"}
"""Shape of `kernel_shapes.py`: name of its model in the data."""


def head_densities(folder: Path, name: str) -> np.ndarray:
    """Mean density after the warm-up, (layers, heads)."""
    steps = read(folder / DENSITIES, name)
    return steps[round(WARMUP * len(steps)) :].mean(0)


def head_kinds(folder: Path) -> np.ndarray:
    """Kind of each head of HunyuanVideo, (layers, heads): which axes the window limits that STA chose most often."""
    windows, index = read(folder / WINDOWS, "windows"), read(folder / WINDOWS, "index")
    axes = read(folder / WINDOWS, "grid") // read(folder / WINDOWS, "tile")
    limited = {(True, False, False): "frame", (False, True, True): "place", (False, True, False): "row",
               (False, False, True): "column"}  # fmt: skip
    names = np.array([limited.get(tuple(window < axes), "cube") for window in windows])
    after = index[round(0.3 * len(index)) :]  # before, STA is dense
    flat = after.reshape(len(after), -1).T
    most = np.array([Counter(head.tolist()).most_common(1)[0][0] for head in flat])
    return names[most].reshape(index.shape[1:])


def read(file: Path, name: str) -> np.ndarray:
    """One array of a data file.

    Raises:
        FileNotFoundError: says where the file belongs.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: it belongs to tools/measurements, --data names another folder")
    with np.load(file, allow_pickle=False) as arrays:
        return arrays[name]


def typical_heads(folder: Path, shape: str, count: int) -> list[Head]:
    """So many heads that stand for all of a model: those in the middle of as many equal parts by density.

    A head of HunyuanVideo has its own kind; one of Wan, of which no windows were published, that of HunyuanVideo's head
    of the same rank.

    Raises:
        ValueError: a shape without data.
    """
    if shape not in RECORDED:
        raise ValueError(f"there is no data for {shape!r}, only for {', '.join(RECORDED)}")
    all_kinds = head_kinds(folder).ravel()
    ranked = all_kinds[head_densities(folder, RECORDED["hunyuan_720p"]).ravel().argsort(kind="stable")]
    densities = np.sort(head_densities(folder, RECORDED[shape]).ravel())
    middles = (np.arange(count) + 0.5) / count
    return [Head(float(np.quantile(densities, middle)), str(ranked[int(middle * len(ranked))])) for middle in middles]


assert {"frame", "place", "row", "column", "cube"} == {*KINDS}
