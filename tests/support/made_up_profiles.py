"""Small profiles with given errors, and what tests of the search read from plans of them."""

from __future__ import annotations

import itertools

import torch
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Skip
from sparse_vdit.plans.profile.profile import MEASURES, Profile, ProfileHeader

CANDIDATES = (Dense(), Skip(), Diagonal(0), Diagonal(1), MultiDiagonal(0.1, 0.1))
DENSITIES = (1.0, 0.0, 0.2, 0.5, 0.3)


def made_up(
    errors, power=None, bands=None, kept_mass=1.0, flow="dense", votes=None, parameters=None
):
    """Profile with given projected errors (bands, layers, heads, candidates)."""
    errors = torch.tensor(errors, dtype=torch.float64)
    shape = errors.shape
    bands = bands or tuple((1 - n / shape[0], 1 - (n + 1) / shape[0]) for n in range(shape[0]))
    header = ProfileHeader("wan", "made up", shape[1], shape[2], 8, (5, 7, 9), 32, 16, CANDIDATES, DENSITIES, bands,
                           flow=flow, parameters=parameters or {})  # fmt: skip
    measures = {name: errors.clone() for name in MEASURES}
    measures["power"] = torch.full(shape, 1.0, dtype=torch.float64) if power is None else power.expand(shape)
    measures["kept_mass"] = torch.full(shape, float(kept_mass), dtype=torch.float64)
    measures["kept_mass"][..., 0] = 1  # dense keeps all
    measures["square"] = errors.square()  # all rows alike
    votes = torch.zeros(shape, dtype=torch.float64) if votes is None else votes
    columns = torch.zeros(*shape[:3], 5 * 7 * 8)
    return Profile(header, measures, votes, torch.ones(shape[:2], dtype=torch.int64), columns)


def random_errors(seed, bands=2, layers=3, heads=4):
    generator = torch.Generator().manual_seed(seed)
    errors = torch.rand(bands, layers, heads, len(CANDIDATES), generator=generator)
    errors[..., 0] = 0
    errors[..., 1] = 1
    return errors.tolist()


def chosen(plan):
    return torch.tensor([[[CANDIDATES.index(plan.patterns[n]) for n in row] for row in b.heads] for b in plan.bands])


def brute_force(errors, limit):
    """Least error at mean density <= limit over all combinations of a few heads, of which none may be skipped."""
    heads = torch.tensor(errors).flatten(0, 2)
    best = None
    for combination in itertools.product(range(len(CANDIDATES)), repeat=len(heads)):
        if 1 not in combination and sum(DENSITIES[c] for c in combination) / len(heads) <= limit + 1e-9:
            error = sum(heads[h, c].item() for h, c in enumerate(combination))
            best = error if best is None else min(best, error)
    return best
