"""The search: planted heads are found, targets are met, and the paper's rule is the paper's rule."""

import itertools
from collections import Counter

import pytest
import torch
from planted import KINDS, planted_head
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.plans.candidates import default_candidates
from sparse_vdit.plans.profiler import Profiler
from sparse_vdit.plans.search import search_budget, search_paper

GRID = TokenGrid(7, 9, 13, prefix=5)
LAYERS, HEADS, HEAD_DIM = 10, 20, 64


@pytest.fixture(scope="module")
def planted():
    """Profile of 200 planted heads, and their true kinds [layer][head]."""
    generator = torch.Generator().manual_seed(11)
    profiler = Profiler("wan", "planted", LAYERS, HEADS, HEAD_DIM, default_candidates(), [(1.0, 0.0)], rows=96,
                        query_tile=32, key_tile=16)  # fmt: skip
    truth = []
    for layer in range(LAYERS):
        kinds = [KINDS[int(i)] for i in torch.randint(len(KINDS), (HEADS,), generator=generator)]
        heads = [planted_head(kind, GRID, HEAD_DIM, generator) for kind in kinds]
        q, k, v = (torch.stack(part, 1)[None] for part in zip(*heads, strict=True))
        profiler.observe(layer, 0.5, q, k, v, GRID, None)
        truth.append(kinds)
    return profiler.profile(), truth


def found(plan, truth) -> float:
    pairs = Counter()
    for layer, head in itertools.product(range(LAYERS), range(HEADS)):
        pairs[truth[layer][head], plan.pattern(0, layer, head).kind] += 1
    print(dict(pairs))
    return sum(count for (true, kind), count in pairs.items() if true == kind) / (LAYERS * HEADS)


def test_budget_finds_planted_kinds(planted):
    profile, truth = planted
    assert found(search_budget(profile, error=0.06), truth) >= 0.95


def test_paper_rule_finds_planted_kinds(planted):
    profile, truth = planted
    # raw MSE depends on the scale of v, here about .004 to .1; lambda and epsilon are set to that scale
    assert found(search_paper(profile, lam=0.004, epsilon=0.006), truth) >= 0.95
