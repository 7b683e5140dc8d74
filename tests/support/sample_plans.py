"""Plans that several tests use."""

import dataclasses
import random

from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Skip, VerticalStripe
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance

PATTERNS = (Dense(), Skip(), Diagonal(frames=1), MultiDiagonal(height=0.1, width=None), VerticalStripe())
PROVENANCE = Provenance(
    model="Wan2.1 T2V 1.3B",
    rule="budget",
    parameters={"density": 0.25, "rows": 256, "flow": "dense"},
    prompts=("a cat, running\nfast", "一只猫"),
    versions={"torch": "2.9", "pack": "0.1.0"},
    date="2026-01-31",
    source="measured here",
    notes='says "hello" \\ / ü',
)


def small_plan(**changes):
    bands = (
        Band(1.0, 0.5, ((0, 1, 2), (3, 4, 0), (0, 0, 0), (1, 2, 3))),
        Band(0.5, 0.0, ((4, 4, 4), (3, 3, 3), (2, 2, 2), (1, 1, 0))),
    )
    plan = Plan("wan", 4, 3, 128, (5, 11, 6), PATTERNS, bands, "measured", PROVENANCE)
    return dataclasses.replace(plan, **changes)


def large_plan(grid=(21, 45, 80)):
    draw = random.Random(0)
    patterns = [Diagonal(frames=n, height=n / 100, width=0.12345) for n in range(60)] + list(PATTERNS)
    table = [tuple(tuple(draw.randrange(65) for _ in range(40)) for _ in range(40)) for _ in range(2)]
    bands = (Band(1.0, 0.9, table[0]), Band(0.9, 0.0, table[1]))
    return Plan("wan", 40, 40, 128, grid, tuple(patterns), bands, "prior", PROVENANCE)


def listing(folder):
    """Content of every file in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
