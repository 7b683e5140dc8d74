"""How much the model's output suffers from an error of attention: the weights w(band, layer) of the error budget.

What says so are a few forwards with sparse attention in one group of layers and dense attention in all others. Of each
two numbers are kept: the squared error of the model's output relative to its power, and the sum over heads of
||W_O dO||^2 in those layers, which is what the budget counts. w is the first per the second, relative to its mean.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

MOST = 10.0
"""How far a weight may lie from the mean, up or down: it comes from one forward or two."""


def layer_groups(layers: int, count: int) -> list[range]:
    """So many groups of neighbouring layers, as equal as can be; at most one for each layer.

    Raises:
        ValueError: no group is asked for.
    """
    if count < 1:
        raise ValueError(f"{count} groups of layers, expected at least 1")
    count = min(count, layers)
    edges = [group * layers // count for group in range(count + 1)]
    return [range(low, high) for low, high in itertools.pairwise(edges)]


def error_weights(injected: Tensor) -> Tensor | None:
    """w for the errors of a profile, float64 (bands, layers, 1), of mean 1 where measured and 1 elsewhere.

    Args:
        injected: error of the output and error of attention, (2, bands, layers), zero where nothing was measured.

    Returns:
        None where nothing was measured at all.
    """
    output, attention = injected.double()
    known = (output > 0) & (attention > 0)
    if not known.any():
        return None
    found = output / attention.clamp_min(1e-300)
    found = (found / found[known].mean()).clamp(1 / MOST, MOST)
    return torch.where(known, found, 1.0)[..., None]
