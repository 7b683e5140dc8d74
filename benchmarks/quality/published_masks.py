"""Which of the search's candidates each published mask is: how much of it that keeps, and how much more.

Masks of STA (arXiv 2502.04507: the windows of HunyuanVideo and of Wan, by tiles), of PSA (2609.37001: those its
appendix counts most, by blocks) and SVG's bands (2502.01776), each on its own model's tokens, against every static
candidate with the pack's own tiles. Shown is the candidate with the most overlap, pairs of both / pairs of any.

    python -m benchmarks.quality.published_masks

Writes benchmarks/results/published_masks-<device>-<date>.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import pattern_density
from sparse_vdit.kernels.order import ORDERS
from sparse_vdit.kernels.tiling import KEY_TILE, QUERY_TILE, Tiling
from sparse_vdit.plans.plan.published import WAN_720P
from sparse_vdit.plans.profile.candidates import static_candidates
from sparse_vdit.plans.profile.rules import MAX_DENSITY
from torch import Tensor

from benchmarks.quality.peers import psa_near, svg_width
from benchmarks.report import results

SAMPLED = 96  # queries
Keeps = Callable[[Tensor, TokenGrid], Tensor]
"""Keys that a query at (t, h, w) attends: bool (tokens,) in raster order."""


@dataclass(frozen=True)
class Mask:
    """A mask as its paper has it."""

    source: str
    name: str
    grid: tuple[int, int, int]
    keeps: Keeps


def places(grid: TokenGrid) -> Tensor:
    """(t, h, w) of every token, (tokens, 3)."""
    axes = torch.meshgrid(*(torch.arange(n) for n in grid.shape), indexing="ij")
    return torch.stack([axis.flatten() for axis in axes], 1)


def window(tile: tuple[int, int, int], size: tuple[int, int, int]) -> Keeps:
    """STA: a window of so many tiles around the query's, moved inside at the borders."""

    def keeps(query: Tensor, grid: TokenGrid) -> Tensor:
        unit = torch.tensor(tile)
        tiles = torch.tensor(grid.shape) // unit
        half = torch.tensor(size) // 2
        low = torch.minimum((query // unit - half).clamp_min(0), tiles - torch.tensor(size))
        at = places(grid) // unit
        return ((at >= low) & (at < low + torch.tensor(size))).all(1)

    return keeps


def psa(time: tuple[int, int, int | None], space: tuple[int, int]) -> Keeps:
    """PSA: as `peers.psa_mask` reads it, in blocks around the query's."""

    def keeps(query: Tensor, grid: TokenGrid) -> Tensor:
        dt, dh, dw = (places(grid) // torch.tensor(PSA_TOKENS) - query // torch.tensor(PSA_TOKENS)).T
        return psa_near(dt, dh, dw, time, space)

    return keeps


def svg_band(density: float, in_time: bool) -> Keeps:
    """SVG: a band around the diagonal, of the sequence as it is or with all frames of a place together."""

    def keeps(query: Tensor, grid: TokenGrid) -> Tensor:
        at, frame = places(grid), grid.height * grid.width

        def rank(place: Tensor) -> Tensor:
            in_frame = place[..., 1] * grid.width + place[..., 2]
            return in_frame * grid.frames + place[..., 0] if in_time else place[..., 0] * frame + in_frame

        return (rank(at) - rank(query)).abs() < svg_width(grid.tokens, density)

    return keeps


HUNYUAN_768P, WAN_768P = (30, 48, 80), (18, 48, 80)
STA_TILE, PSA_TOKENS = (6, 8, 8), (3, 8, 16)
STA = {
    HUNYUAN_768P: ((5, 3, 3), (1, 6, 10), (3, 3, 5), (5, 1, 10), (5, 6, 1)),
    WAN_768P: ((3, 1, 10), (1, 5, 7), (3, 3, 3), (1, 6, 5), (1, 3, 10), (3, 6, 1)),
}
PSA = (  # of Wan in 720p, the commonest first
    ((7, 0, None), (3, 3)), ((1, 0, None), (5, 6)), ((7, 0, None), (1, 3)), ((7, 0, None), (3, 1)),
    ((7, 0, None), (3, 5)), ((7, 0, None), (1, 5)), ((7, 0, None), (5, 3)), ((1, 0, 3), (5, 6)), ((3, 0, None), (5, 6)),
)  # fmt: skip
PUBLISHED = (
    *(Mask("STA", f"window {'x'.join(map(str, size))} tiles", grid, window(STA_TILE, size))
      for grid, sizes in STA.items() for size in sizes),
    *(Mask("PSA", f"time {time[0]}" + (f" every {time[2]}" if time[2] else "") + f", {w} x {h} blocks", WAN_720P,
                psa(time, (w, h))) for time, (w, h) in PSA),
    Mask("SVG", "space, density .30", WAN_720P, svg_band(0.3, False)),
    Mask("SVG", "time, density .30", WAN_720P, svg_band(0.3, True)),
)  # fmt: skip


class Kept:
    """Tiles that all static candidates keep on one grid."""

    def __init__(self, grid: TokenGrid):
        self.grid = grid
        self.candidates = [
            p for p in static_candidates() if p.kind != "skip" and pattern_density(p, grid) <= MAX_DENSITY
        ]
        self.tilings = {order: Tiling(grid, order, QUERY_TILE, KEY_TILE) for order in ORDERS}
        self.ranks = {order: tiling.index.argsort() for order, tiling in self.tilings.items()}
        self.masks = [pattern.tile_mask(self.tilings[pattern.order]) for pattern in self.candidates]
        whole = min(tiling.query_tiles for tiling in self.tilings.values()) * QUERY_TILE
        self.queries = [q for q in range(0, grid.tokens, max(1, grid.tokens // SAMPLED)) if self._tile(q) < whole]

    def _tile(self, query: int) -> int:
        return max(int(rank[query]) for rank in self.ranks.values())

    def overlaps(self, keeps: Keeps) -> tuple[float, list[float], list[float]]:
        """Density of a mask, and of each candidate how much of the mask it keeps and how much of both together."""
        at, wanted = places(self.grid), 0
        both, own = ([0] * len(self.candidates) for _ in range(2))
        for query in self.queries:
            mask = keeps(at[query], self.grid)
            wanted += int(mask.sum())
            for order, tiling in self.tilings.items():
                tiled = tiling.key_tiles * KEY_TILE
                counts = mask[tiling.index[:tiled]].view(-1, KEY_TILE).sum(1)
                always = int(mask[tiling.index[tiled:]].sum())
                tile = int(self.ranks[order][query]) // QUERY_TILE
                for number, pattern in enumerate(self.candidates):
                    if pattern.order == order:
                        kept = self.masks[number][tile]
                        both[number] += int(counts[kept].sum()) + always
                        own[number] += int(kept.sum()) * KEY_TILE + tiling.dense_keys
        recall = [b / wanted for b in both]
        return wanted / len(self.queries) / self.grid.tokens, recall, [
            b / (wanted + o - b) for b, o in zip(both, own, strict=True)
        ]  # fmt: skip


def member(published: Mask, kept: Kept) -> dict:
    """The row of a published mask: the candidate with the largest overlap."""
    density, recall, overlap = kept.overlaps(published.keeps)
    best = max(range(len(overlap)), key=overlap.__getitem__)
    pattern = kept.candidates[best]
    return {
        "source": published.source, "mask": published.name, "grid": list(published.grid), "density": round(density, 4),
        "candidate": pattern.describe(), "order": pattern.order,
        "candidate_density": round(pattern_density(pattern, kept.grid), 4), "recall": round(recall[best], 4),
        "overlap": round(overlap[best], 4),
    }  # fmt: skip


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows, kept = [], {}
    for published in PUBLISHED:
        grid = published.grid
        kept[grid] = kept.get(grid) or Kept(TokenGrid(*grid))
        rows.append(member(published, kept[grid]))
        print(rows[-1], flush=True)
    print("Written to", results.save_results("published_masks", rows))


if __name__ == "__main__":
    main()
