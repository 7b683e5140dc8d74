"""Which score of a key tile should a routed head choose by? The mean product against log-sum-exps of parts of tiles.

A routed head keeps the key tiles with the largest score per query tile. Compared, for parts of 1 to 8 per tile:

    mean     mean(q) . mean(k), what `kernels/routing.py` does
    lse a b  log sum exp over a parts of the query tile and b parts of the key tile of mean(q part) . mean(k part)
    best     the tiles sorted by the softmax mass they truly hold, the limit

`keys` is the smallest share of key tiles that holds 95 % of the softmax mass, `kept` the mass that 20 % of them hold.
`cost` is the number of products of means, in units of the plain score's.

    python -m benchmarks.quality.routing_scores
    python -m benchmarks.quality.routing_scores --grid 9 18 22 --prompts 1

Writes benchmarks/results/routing_scores-<device>-<date>.json: a row per score for the small Wan and for made heads.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.order import SPATIOTEMPORAL
from sparse_vdit.kernels.tiling import Tiling
from torch import Tensor

from benchmarks.quality import tile_needs
from benchmarks.quality.head_generator import KINDS, Content, Head, make_head
from benchmarks.quality.small_wan_runs import KEY_TILE, MODEL, QUERY_TILE
from benchmarks.report.results import save_results

MASS, SHARE = 0.95, 0.2
PARTS = ((1, 4), (2, 2), (4, 4), (8, 8))  # parts of a query tile and of a key tile
MADE_DENSITIES, MADE_CONTENT, HEAD_DIM = (0.05, 0.15, 0.3), Content(share=0.3, alike=0.5), 64


def scores_of(q: Tensor, k: Tensor) -> dict[str, Tensor]:
    """Each score of all tiles, (query tiles, key tiles).

    Args:
        q, k: tokens by tile, (query tiles, 128, D) and (key tiles, 64, D).
    """
    scale = q.shape[-1] ** -0.5
    found = {"mean": q.mean(1) @ k.mean(1).T}
    for a, b in PARTS:
        parts_q, parts_k = (x.unflatten(1, (n, -1)).mean(2) for x, n in ((q, a), (k, b)))
        products = torch.einsum("tad,nbd->tnab", parts_q, parts_k) * scale
        found[f"lse {a} {b}"] = products.flatten(2).logsumexp(-1)
    return found


def tile_masses(q: Tensor, k: Tensor) -> Tensor:
    """Share of each key tile in the softmax of a query tile, (query tiles, key tiles); arguments as for `scores_of`."""
    keys = k.flatten(0, 1)
    rows = [(tile @ keys.T * q.shape[-1] ** -0.5).softmax(-1).mean(0).view(len(k), -1).sum(-1) for tile in q]
    return torch.stack(rows)


def judged(scores: Tensor, masses: Tensor) -> dict[str, float]:
    """`keys` and `kept` of the tiles in the order of their scores, means over query tiles."""
    held = masses.gather(-1, scores.argsort(-1, descending=True)).cumsum(-1).mean(0)
    kept = held[max(0, round(SHARE * len(held)) - 1)]
    return {"keys": (int((held < MASS).sum()) + 1) / len(held), "kept": kept.item()}


def compare(tiling: Tiling, q: Tensor, k: Tensor, query_tiles: Tensor) -> dict[str, dict[str, float]]:
    """All scores of one head, q and k (S, D), judged on some query tiles."""
    rows = tiling.index[: tiling.query_tiles * QUERY_TILE].view(-1, QUERY_TILE)[query_tiles]
    keys = k[tiling.index[: tiling.key_tiles * KEY_TILE]].view(tiling.key_tiles, KEY_TILE, -1)
    masses = tile_masses(q[rows], keys)
    return {name: judged(score, masses) for name, score in {**scores_of(q[rows], keys), "best": masses}.items()}


class Compared(tile_needs.Needs):
    """Observes the small Wan's heads; `found[layer, head]` has a row per prompt and step."""

    def _needs(self, q: Tensor, k: Tensor) -> dict:
        return compare(self.tiling, q, k, self.chosen)


def made_heads(grid: TokenGrid) -> list[dict]:
    """The scores of a made head of each kind and density."""
    tiling = Tiling(grid, SPATIOTEMPORAL, QUERY_TILE, KEY_TILE)
    chosen = torch.linspace(0, tiling.query_tiles - 1, min(tiling.query_tiles, 24)).round().long()
    found = []
    for number, (density, kind) in enumerate((density, kind) for density in MADE_DENSITIES for kind in KINDS):
        generator = torch.Generator().manual_seed(number)
        q, k, _ = make_head(grid, HEAD_DIM, Head(density, kind), MADE_CONTENT, generator, torch.float32)
        found.append(compare(tiling, q, k, chosen))
    return found


def rows_of(what: str, grid: TokenGrid, found: list[dict]) -> list[dict]:
    """Means over heads, a row per score."""
    sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        for name, values in one.items():
            for measure, value in values.items():
                sums[name][measure].append(value)
    cost = {"mean": 1} | {f"lse {a} {b}": a * b for a, b in PARTS}
    return [
        {"what": what, "grid": list(grid.shape), "heads": len(found), "score": name, "cost": cost.get(name)}
        | {measure: round(sum(values) / len(values), 4) for measure, values in measures.items()}
        for name, measures in sums.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, nargs=3, default=(13, 24, 28), help="tokens in time, height and width")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--every", type=int, default=3)
    args = parser.parse_args()
    grid = TokenGrid(*args.grid)
    rows = rows_of("made heads", grid, made_heads(grid))
    seen = Compared(grid)
    tile_needs.observe(tuple(args.grid), args.prompts, args.steps, args.every, seen)
    rows += rows_of(MODEL, grid, [one for found in seen.found.values() for one in found])
    for row in rows:
        print(row)
    print("Written to", save_results("routing_scores", rows))


if __name__ == "__main__":
    main()
