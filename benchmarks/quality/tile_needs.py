"""How many tiles a head needs that needs a known part of the keys: the multipliers of the shipped plans' rule.

What is public of real models is a density of keys: the mean over queries of the smallest part that holds 95 % of the
softmax mass. Heads run in tiles, and routed ones choose them by means. Measured on the small Wan, per head, prompt and
step after the first fifth, over some query tiles:

    keys      that density of keys
    best      the smallest share of key tiles that holds a mass, if they were known
    routed    the smallest share with which a routed head keeps it

    python -m benchmarks.quality.tile_needs
    python -m benchmarks.quality.tile_needs --grid 9 18 22 --prompts 2

Writes benchmarks/results/tile_needs-<device>-<date>.json: a row for each head, and one with the fitted multipliers.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict

import torch
from small_wan.model import AttentionHook, dense_attention
from small_wan.sample import sample, sigma_schedule
from small_wan.video import encode
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.order import SPATIOTEMPORAL
from sparse_vdit.kernels.tiling import Tiling
from torch import Tensor

from benchmarks.quality.attention_statistics import smallest_share
from benchmarks.quality.small_wan_runs import (
    KEY_TILE,
    MODEL,
    PROMPT_SEED,
    QUERY_TILE,
    load_model,
    random_scene,
    warmup_steps,
)
from benchmarks.report.results import save_results

MASSES = (0.8, 0.9, 0.95, 0.98)
SAMPLED_TILES = 48
KEYS_MASS = 0.95


def routed_share(q: Tensor, k: Tensor, masses: Tensor, mass: float) -> float:
    """Smallest share of key tiles with which a routed head keeps a mass, mean over query tiles.

    Args:
        q, k: mean queries and keys of the tiles, (query tiles, D) and (key tiles, D).
        masses: share of each key tile in the softmax of a query tile, (query tiles, key tiles).
    """
    best_first = (q @ k.T).argsort(-1, descending=True)
    kept = masses.gather(-1, best_first).cumsum(-1).mean(0)
    return (int((kept < mass).sum()) + 1) / len(kept)


class Needs:
    """What is observed of all heads; `found[layer, head]` has a row of numbers per prompt and step."""

    def __init__(self, grid: TokenGrid):
        self.tiling = Tiling(grid, SPATIOTEMPORAL, QUERY_TILE, KEY_TILE)
        tiles = self.tiling.query_tiles
        self.chosen = torch.linspace(0, tiles - 1, min(tiles, SAMPLED_TILES)).round().long()
        self.found: dict[tuple[int, int], list[dict[str, float]]] = defaultdict(list)

    def observe(self, layer: int, q: Tensor, k: Tensor) -> None:
        """One step of a layer: q, k (S, H, D)."""
        for head in range(q.shape[1]):
            self.found[layer, head].append(self._needs(q[:, head].float(), k[:, head].float()))

    def _needs(self, q: Tensor, k: Tensor) -> dict[str, float]:
        tiling = self.tiling
        rows = tiling.index[: tiling.query_tiles * QUERY_TILE].view(-1, QUERY_TILE)[self.chosen]
        keys = k[tiling.index[: tiling.key_tiles * KEY_TILE]]
        shares, masses = [], []
        for tile in rows:
            weights = (q[tile] @ keys.T * q.shape[-1] ** -0.5).softmax(-1)
            shares.append(smallest_share(weights, KEYS_MASS).mean().item())
            masses.append(weights.mean(0).view(-1, KEY_TILE).sum(-1))
        by_tile = torch.stack(masses)
        means = q[rows].mean(1), keys.view(-1, KEY_TILE, keys.shape[-1]).mean(1)
        found = {"keys": sum(shares) / len(shares)}
        for mass in MASSES:
            found[f"best_{mass}"] = smallest_share(by_tile, mass).mean().item()
            found[f"routed_{mass}"] = routed_share(*means, by_tile, mass)
        return found


def observe(grid: tuple[int, int, int], prompts: int, steps: int, every: int, needs: Needs) -> Needs:
    """Dense runs of unseen prompts, each observed by `needs` at every n-th step after the warm-up."""
    model = load_model()
    measured = set(sigma_schedule(steps).tolist()[warmup_steps(steps) : -1 : every])

    def attention(sigma: float) -> AttentionHook:
        def hook(layer: int, q: Tensor, k: Tensor, v: Tensor, shape: tuple[int, int, int]) -> Tensor:
            needs.observe(layer, q[0], k[0])
            return dense_attention(layer, q, k, v, shape)

        return hook if sigma in measured else dense_attention

    for prompt in range(prompts):
        scene = random_scene(torch.Generator().manual_seed(PROMPT_SEED + prompt))
        sample(model, encode([scene]), grid, steps, seed=prompt, attention=attention)
        print(f"prompt {prompt + 1} of {prompts}: {scene}", flush=True)
    return needs


def head_rows(needs: Needs) -> list[dict]:
    """Means of each head, which is what plans are made of."""
    rows = []
    for (layer, head), found in sorted(needs.found.items()):
        means = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
        rows.append({"layer": layer, "head": head, **{name: round(value, 4) for name, value in means.items()}})
    return rows


def exponent(rows: list[dict], name: str) -> float:
    """The e of tiles = keys ** e that fits heads best, by least squares of logarithms: nothing is 0, all is 1."""
    pairs = [(math.log(row["keys"]), math.log(row[name])) for row in rows]
    return sum(x * y for x, y in pairs) / sum(x * x for x, _ in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, nargs=3, default=(13, 24, 28), help="tokens in time, height and width")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--every", type=int, default=3)
    args = parser.parse_args()
    needs = observe(tuple(args.grid), args.prompts, args.steps, args.every, Needs(TokenGrid(*args.grid)))
    heads = head_rows(needs)
    names = [name for name in heads[0] if name.startswith(("best", "routed"))]
    fitted = {name: round(exponent(heads, name), 4) for name in names}
    known = {"model": MODEL, "grid": args.grid, "prompts": args.prompts, "key_tiles": needs.tiling.key_tiles}
    rows = [{**known, "what": "head", **row} for row in heads] + [{**known, "what": "exponents", **fitted}]
    for row in rows:
        print(row)
    print("Written to", save_results("tile_needs", rows))


if __name__ == "__main__":
    main()
