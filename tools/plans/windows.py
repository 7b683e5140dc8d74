"""The plan of grade measured: HunyuanVideo T2V, whose windows STA searched and whose densities SVOO measured."""

from __future__ import annotations

import math

import numpy as np
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import pattern_density
from sparse_vdit.kernels.order import SPATIOTEMPORAL
from sparse_vdit.kernels.patterns import Diagonal, MultiDiagonal, Pattern
from sparse_vdit.plans.plan.card import Card
from sparse_vdit.plans.plan.plan import Plan, Provenance

from .measurements import COMMITS, STA, STA_FIRST, SVOO, key_densities, sta_grid, sta_windows
from .models import DENSITIES, HUNYUAN_T2V, Part
from .parts import DATE, keys_of, least_density, plan_of, routed, rule_parameters
from .rule import RULES

SHIFT = 7.0  # of the schedule that STA searched on

MEASURED = (
    "Of every head, the window with the least error among STA's five: 117 frames of 768x1280, most of steps 15 to 49 "
    "(arXiv 2502.04507). Of every head, the part of the keys that holds 95 % of the softmax mass: one prompt, 720x1280 "
    "of 129 frames (SVOO, arXiv 2603.18636)."
)
NOT_MEASURED = (
    "Noise levels above {highest:.3g}, where everything stays dense. Patterns of the {routed} of {heads} heads whose "
    "window is smaller than their density asks for: they choose their tiles at each call. How many tiles they need: "
    "that was carried over from keys to tiles, and from 95 % to other masses, by a small model. Speed and quality."
)


def window_pattern(size: np.ndarray, grid: tuple[int, int, int]) -> Pattern:
    """STA's window of (time, height, width) tokens as the pack has it, around the query: half of it to each side."""
    half = [None if length >= whole else length / 2 for length, whole in zip(size.tolist(), grid, strict=True)]
    height, width = (
        None if tokens is None else round(tokens / whole, 3) for tokens, whole in zip(half[1:], grid[1:], strict=True)
    )
    if half[0] is None:
        return MultiDiagonal(height, width)
    if height is None and width is None:
        return Diagonal(int(half[0]))
    return Diagonal(int(half[0]), height, width, order=SPATIOTEMPORAL)


def windows(preset: str) -> Plan:
    """Each head with its window where that is as large as its density asks for, else routed."""
    rule, grid = RULES[preset], sta_grid()
    # STA's schedule: what lies above the first of its steps was not searched
    fraction = 1 - STA_FIRST / len(key_densities(DENSITIES[HUNYUAN_T2V.file]))
    highest = SHIFT * fraction / (1 + (SHIFT - 1) * fraction)
    part = Part(math.ceil(highest * 1e4) / 1e4, 0.0, STA_FIRST, None)  # so that it covers that step
    shares = rule.planned(keys_of(HUNYUAN_T2V, part))
    patterns = [[window_pattern(size, grid) for size in row] for row in sta_windows()]
    densities = {p: pattern_density(p, TokenGrid(*grid)) for p in {p for row in patterns for p in row}}
    table = [
        [p if densities[p] >= share else routed(share) for p, share in zip(row, needed, strict=True)]
        for row, needed in zip(patterns, shares, strict=True)
    ]
    kept = sum(a is b for row, found in zip(patterns, table, strict=True) for a, b in zip(row, found, strict=True))
    provenance = Provenance(
        model=HUNYUAN_T2V.name,
        rule="STA's windows, routed or dense where the density asks for more",
        parameters={**rule_parameters(preset, rule), "heads_with_windows": kept},
        versions={**COMMITS[SVOO], **COMMITS[STA]},
        date=DATE,
        source="STA's search and SVOO's measurements of this model",
        notes="One band: STA's window of a head is the same in 91 % of the steps.",
    )
    heads = shares.size
    told = NOT_MEASURED.format(highest=part.sigma_high, routed=heads - kept, heads=heads)
    card = Card(HUNYUAN_T2V.name, MEASURED, told, least_density(HUNYUAN_T2V, rule))
    return plan_of(HUNYUAN_T2V, "measured", [table], provenance, card, [part])
