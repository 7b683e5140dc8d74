"""What the small Wan's heads look at, beside published measurements of real models: is it a fair yardstick?

Measured per head and prompt over some steps of a dense run, those after the first fifth:

    keys           mean over the queries of 16 tiles of the smallest fraction of keys with 95 % of the softmax mass
    spatial, spatiotemporal (token orders)
                   the same for tiles of 64 keys and the mass of a whole query tile
    kind           the kind that keeps 95 % of the mass with the fewest tiles, `dense` where none saves a tenth

    python -m benchmarks.quality.attention_statistics --grid 13 24 28 --prompts 8

Writes benchmarks/results/attention_statistics-<device>-<date>.json and docs/images/attention.png, one head of each
kind; of another grid than the default one the picture has the grid in its name.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from small_wan.model import AttentionHook, dense_attention
from small_wan.sample import sample, sigma_schedule
from small_wan.video import encode
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.order import ORDERS, SPATIAL
from sparse_vdit.kernels.tiling import KEY_TILE, QUERY_TILE, Tiling
from sparse_vdit.plans.profile.candidates import static_candidates
from torch import Tensor

from benchmarks.quality.small_wan_runs import MODEL, PROMPT_SEED, ROOT, STEPS, load_model, random_scene, warmup_steps
from benchmarks.report import results
from benchmarks.report.pictures import labelled_row

MASS = 0.95
SAVING = 0.9  # a pattern has to keep fewer tiles than this share, or the head counts as dense
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SAMPLED_TILES = 16  # query tiles of a head
PICTURE = 260  # pixels of an attention map
README_GRID = (9, 18, 22)  # of the table and the picture in benchmarks/README.md
# Quantiles over heads of the same measure `keys`: SVOO's sparsity profiles (arXiv 2603.18636, Mutual-Luo/SVOO, commit
# e4ae67b, Apache-2.0; wan_1.3B_t2v.csv, wan_14B_t2v.csv, hunyuan10_13B_t2v.csv), 720x1280, one prompt; of each head the
# mean over the steps from 20 % on, then QUANTILES of heads.
PUBLISHED = {
    "Wan 2.1 1.3B T2V": (0.004, 0.011, 0.045, 0.153, 0.390),
    "Wan 2.1 14B T2V": (0.011, 0.034, 0.125, 0.352, 0.725),
    "HunyuanVideo 13B T2V": (0.003, 0.008, 0.043, 0.179, 0.508),
}

Head = tuple[int, int]


def smallest_share(masses: Tensor, mass: float = MASS) -> Tensor:
    """Smallest fraction of the last axis that holds a part of its sum: (..., n) -> (...)."""
    ranked = masses.sort(-1, descending=True).values
    short = ranked.cumsum(-1) < mass * ranked.sum(-1, keepdim=True)
    return (short.sum(-1) + 1).clamp(max=masses.shape[-1]) / masses.shape[-1]


class HeadStatistics:
    """What is observed of all heads during one prompt; `found[measure][layer, head]` has a value per step."""

    def __init__(self, grid: TokenGrid, device: str = "cpu"):
        self.tilings = {order: Tiling(grid, order, QUERY_TILE, KEY_TILE) for order in ORDERS}
        self.index = {order: tiling.index.to(device) for order, tiling in self.tilings.items()}
        tiles = self.tilings[SPATIAL].query_tiles
        self.chosen = torch.linspace(0, tiles - 1, min(tiles, SAMPLED_TILES), device=device).round().long()
        patterns = [p for p in static_candidates() if p.kind not in ("dense", "skip")]
        self.masks = [(p.kind, p.order, p.tile_mask(self.tilings[p.order]).to(device)) for p in patterns]
        self.found: dict[str, dict[Head, list]] = defaultdict(lambda: defaultdict(list))
        self.maps: dict[Head, Tensor] = {}

    def observe(self, layer: int, q: Tensor, k: Tensor) -> None:
        """One step of a layer: q, k (S, H, D)."""
        for head in range(q.shape[1]):
            own_q, own_k = q[:, head].float(), k[:, head].float()
            masses = {order: self._tile_masses((layer, head), order, own_q, own_k) for order in ORDERS}
            for order, tile_masses in masses.items():
                self.found[order][layer, head].append(smallest_share(tile_masses).mean().item())
            self.found["kind"][layer, head].append(self._kind(masses))
            self.maps[layer, head] = coarse_map(own_q, own_k)

    def _tile_masses(self, head: Head, order: str, q: Tensor, k: Tensor) -> Tensor:
        """Mass of every key tile for each chosen query tile, (chosen, key tiles); notes the measure `keys` too."""
        tiling, index, masses, shares = self.tilings[order], self.index[order], [], []
        rows = index[: tiling.query_tiles * QUERY_TILE].view(-1, QUERY_TILE)[self.chosen]
        keys = k[index].T
        for tile in rows:
            weights = (q[tile] @ keys * q.shape[-1] ** -0.5).softmax(-1)
            masses.append(weights.sum(0)[: tiling.key_tiles * KEY_TILE].view(-1, KEY_TILE).sum(-1))
            if order == SPATIAL:
                shares.append(smallest_share(weights).mean().item())
        if shares:
            self.found["keys"][head].append(sum(shares) / len(shares))
        return torch.stack(masses)

    def _kind(self, masses: dict[str, Tensor]) -> str:
        best = (SAVING, "dense")
        for kind, order, mask in self.masks:
            kept = (masses[order] * mask[self.chosen]).sum()
            if kept >= MASS * masses[order].sum():
                best = min(best, (mask.float().mean().item(), kind))
        return best[1]


def coarse_map(q: Tensor, k: Tensor) -> Tensor:
    """Attention of q, k (S, D): every n-th query, and the mass of all keys between two of them, (PICTURE, PICTURE)."""
    at = torch.linspace(0, len(q) - 1, min(PICTURE, len(q))).round().long()
    weights = (q[at.to(q.device)] @ k.T * q.shape[-1] ** -0.5).softmax(-1).cpu()
    edges = torch.linspace(0, len(k), len(at) + 1).round().long()
    summed = torch.cat([torch.zeros(len(at), 1), weights.cumsum(-1)], 1)[:, edges]
    return summed.diff(dim=-1)


def generate_observed(grid: tuple[int, int, int], prompts: int, every: int, device: str) -> list[HeadStatistics]:
    """Dense runs of unseen prompts, each observed at every n-th step after the warm-up."""
    model, sigmas, collected = load_model(device=device), sigma_schedule(STEPS).tolist(), []
    measured = set(sigmas[warmup_steps() : -1 : every])
    for prompt in range(prompts):
        scene = random_scene(torch.Generator().manual_seed(PROMPT_SEED + prompt))
        statistics = HeadStatistics(TokenGrid(*grid), device)

        def attention(sigma: float, statistics: HeadStatistics = statistics) -> AttentionHook:
            def hook(layer: int, q: Tensor, k: Tensor, v: Tensor, shape: tuple[int, int, int]) -> Tensor:
                statistics.observe(layer, q[0], k[0])
                return dense_attention(layer, q, k, v, shape)

            return hook if sigma in measured else dense_attention

        sample(model, encode([scene]), grid, STEPS, seed=prompt, attention=attention)
        collected.append(statistics)
        print(f"prompt {prompt + 1} of {prompts}: {scene}", flush=True)
    return collected


def density_row(collected: list[HeadStatistics], measure: str) -> dict:
    """Quantiles over heads of a density, and how alike prompts are: the mean correlation of two, over heads."""
    heads = np.array([[np.mean(values) for _, values in sorted(s.found[measure].items())] for s in collected])
    alike = np.corrcoef(heads)[np.triu_indices(len(heads), 1)].mean()
    return {
        "measure": measure, "quantiles": [round(float(x), 4) for x in np.quantile(heads.mean(0), QUANTILES)],
        "mean": round(float(heads.mean()), 4), "correlation": round(float(alike), 4),
        "heads": [round(float(x), 4) for x in heads.mean(0)],
    }  # fmt: skip


def kind_row(collected: list[HeadStatistics]) -> dict:
    """Heads of each kind, by most votes, and the share of prompts that agree with the most of their head."""
    heads = sorted(collected[0].found["kind"])
    votes = [[Counter(s.found["kind"][head]).most_common(1)[0][0] for s in collected] for head in heads]
    winners = [Counter(vote).most_common(1)[0] for vote in votes]
    return {
        "measure": "kind", "kinds": dict(Counter(kind for kind, _ in winners).most_common()),
        "agreement": round(sum(count for _, count in winners) / len(heads) / len(collected), 4),
        "heads": [kind for kind, _ in winners],
    }  # fmt: skip


def picture_file(grid: tuple[int, int, int]) -> Path:
    """Where the picture of a grid goes; only README_GRID makes the picture of benchmarks/README.md."""
    name = "attention" if grid == README_GRID else f"attention-{'x'.join(map(str, grid))}"
    return ROOT / "docs" / "images" / f"{name}.png"


def draw(statistics: HeadStatistics, kinds: list[str], file: Path) -> None:
    """For every kind the map of its first head in the last observed step."""
    panels = {}
    for (layer, head), kind in zip(sorted(statistics.maps), kinds, strict=True):
        panels.setdefault(kind, (f"layer {layer}, head {head}: {kind.replace('_', ' ')}", statistics.maps[layer, head]))
    shades = {name: (weights / weights.amax(-1, keepdim=True)).sqrt() for name, weights in panels.values()}
    labelled_row(shades, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, nargs=3, default=README_GRID, help="tokens in time, height and width")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--every", type=int, default=4, help="observe every n-th step after the warm-up")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no such device here")
    if min(args.grid) < 1 or math.prod(args.grid) < QUERY_TILE:
        parser.error(f"--grid {args.grid} has fewer than {QUERY_TILE} tokens")
    if args.prompts < 2 or not 1 <= args.every < STEPS:
        parser.error(f"--prompts has to be at least 2, to compare them, and --every 1 to {STEPS - 1}")
    grid = tuple(args.grid)
    collected = generate_observed(grid, args.prompts, args.every, args.device)
    known = {"model": MODEL, "grid": list(grid), "prompts": args.prompts}
    rows = [known | density_row(collected, measure) for measure in ("keys", *ORDERS)] + [known | kind_row(collected)]
    rows += [{"model": name, "measure": "keys", "quantiles": list(values)} for name, values in PUBLISHED.items()]
    print(*rows, sep="\n")
    file = picture_file(grid)
    draw(collected[-1], next(row for row in rows if row["measure"] == "kind")["heads"], file)
    written = results.save_results("attention_statistics", rows, args.device)
    print(f"Written to {written} and {file.relative_to(ROOT).as_posix()}")


if __name__ == "__main__":
    main()
