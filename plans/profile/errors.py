"""Errors of all candidates from one pass over sampled query rows.

For each sampled row the softmax over all keys is kept as partial sums per key tile: the numerator (a vector) and the
denominator, against the row's own maximum. What a candidate would have given is then a masked sum of those partials:

    o_c = sum_{tiles of c} n_tile / sum_{tiles of c} d_tile ,   dO_c = o_c - o

so a hundred candidates cost little more than one. A row is evaluated with the list of the query tile that it lies in.
Routed candidates choose their tiles from the queries and keys at hand, as they do when they run, and profiled stripes
their columns from the mass that the head has shown so far.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.grid import TokenGrid
from ...kernels.lists import skip_density, tile_density
from ...kernels.patterns import Pattern, Routed, Skip
from ...kernels.routing import best_tiles
from ...kernels.tiling import Tiling
from .columns import Cells, ProfiledStripe
from .head_maps import part_count, part_mass, part_of_token

PARTIAL_SUM_BYTES = 256 << 20  # partial sums held at a time


@dataclass(frozen=True)
class HeadErrors:
    """Means over sampled rows and batch, float64 (heads, candidates).

    Attributes:
        projected: ||W_O dO||^2, or ||dO||^2 without an output projection.
        relative: ||dO||^2 / ||O||^2, sums over rows divided.
        mse: mean of dO^2 over rows and channels, as in the paper's Eq. 2.
        kept_mass: share of the softmax mass on the kept keys.
        power: ||W_O O||^2, what the head adds to the residual stream; the same for all candidates of a head.
        square: mean over rows of (||W_O dO||^2)^2, from which the sampling error of `projected` follows.
    """

    projected: Tensor
    relative: Tensor
    mse: Tensor
    kept_mass: Tensor
    power: Tensor
    square: Tensor


def sample_rows(tiling: Tiling, rows: int, generator: torch.Generator) -> Tensor:
    """Positions in the sorted sequence of sampled query rows, spread evenly over the full query tiles, int64.

    Dense rows are exact whatever the candidate, so none is sampled; a grid without a full tile gives no rows. (Without
    text a skipped head zeroes the ragged end too: fewer rows than one tile.)
    """
    covered = tiling.query_tiles * tiling.query_tile
    count = min(rows, covered)
    edges = torch.arange(count + 1, dtype=torch.float64) * covered / max(1, count)
    low, high = edges[:-1].floor().long(), edges[1:].floor().long()
    return low + (torch.rand(count, generator=generator) * (high - low)).long()


class CandidateEvaluator:
    """Evaluates candidates on one grid; masks are made once and serve every layer and step.

    Raises:
        ValueError: a video too small to hold a full query tile.
    """

    def __init__(self, grid: TokenGrid, candidates: Sequence[Pattern], rows: int, query_tile: int, key_tile: int):
        self.grid, self.candidates, self.rows = grid, tuple(candidates), rows
        self.tilings = {p.order: Tiling(grid, p.order, query_tile, key_tile) for p in self.candidates}
        self.masks = [self._static_mask(pattern) for pattern in self.candidates]
        self.ranks = {order: tiling.index.argsort() for order, tiling in self.tilings.items()}
        numbers = range(len(self.candidates))
        self.of_order = {order: [n for n in numbers if self.candidates[n].order == order] for order in self.tilings}
        self.cells = Cells(Tiling(grid, ProfiledStripe.order, query_tile, key_tile))
        self._cells: dict[torch.device, Cells] = {}
        if not grid.video_tokens // query_tile:
            raise ValueError(f"{grid} tokens hold no full tile of {query_tile}: too small a video to profile")

    def _static_mask(self, pattern: Pattern) -> Tensor:
        """Tiles that a pattern keeps whatever is shown: none of a routed one, the own ones of a profiled stripe."""
        tiling = self.tilings[pattern.order]
        if isinstance(pattern, Routed):
            return torch.zeros(tiling.query_tiles, tiling.key_tiles, dtype=torch.bool)
        if isinstance(pattern, ProfiledStripe):
            own = torch.arange(tiling.key_tiles) * tiling.key_tile // tiling.query_tile
            return own == torch.arange(tiling.query_tiles)[:, None]
        return pattern.tile_mask(tiling)

    def densities(self) -> tuple[float, ...]:
        """Of each candidate, as its tile list would have it; for a profiled stripe the largest that it may have."""
        return tuple(self._density(pattern, mask) for pattern, mask in zip(self.candidates, self.masks, strict=True))

    def _density(self, pattern: Pattern, mask: Tensor) -> float:
        tiling = self.tilings[pattern.order]
        if isinstance(pattern, Skip):
            return skip_density(tiling)
        if isinstance(pattern, ProfiledStripe):
            return self.cells.density(pattern.share)
        if isinstance(pattern, Routed):
            return tile_density(tiling, pattern.kept_tiles(tiling) * tiling.query_tiles)
        return tile_density(tiling, mask.sum().item())

    def errors(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gram: Tensor | None,
        generator: torch.Generator,
        columns: Tensor | None = None,
        maps: Tensor | None = None,
        free: int | None = None,
    ) -> HeadErrors:
        """Errors of every candidate for every head of q, k, v (B, S, H, D).

        Args:
            gram: (H, D, D) = W_O^T W_O per head.
            columns: softmax mass that earlier calls showed, float64 (H, cells); this call's is added, in place.
            maps: softmax mass between parts of the video (`head_maps`), float64 (H, parts, parts); as `columns`.
            free: bytes of the device's memory that may be taken; None where that is not known.

        Raises:
            ValueError: less memory is free than the smallest part takes.
        """
        (batch, _, heads, head_dim), device, tokens = q.shape, q.device, self.sample_tokens(generator)
        cells = self._cells_on(device)
        shown = torch.zeros(heads, len(cells.boxes), device=device) if columns is None else columns.to(device).float()
        parts = part_of_token(self.grid.shape).to(device)
        between = torch.zeros(heads, *([part_count(self.grid.shape)] * 2), device=device)
        sums = torch.zeros(heads, 6, len(self.candidates), dtype=_exact(device), device=device)
        # what heads share is made once for each part of the rows, so that a head is work for the device alone
        for part in tokens.split(self._part_rows(head_dim, device, free)):
            orders, rows = [self._sampled(order, part, device) for order in self.tilings], part.to(device)
            for head, one in itertools.product(range(heads), range(batch)):
                query, key, value = (x[one, :, head] for x in (q, k, v))
                # a row's sum is 1, so denominators are masses
                weights = (query[rows].float() @ key.float().T * head_dim**-0.5).softmax(-1)
                shown[head] += cells.mass(weights)
                if maps is not None:
                    between[head] += part_mass(weights, rows, parts, between.shape[-1], self.grid.prefix)
                for sampled in orders:
                    masks = self._masks(sampled, query, key, cells, shown[head])
                    found = _evaluate(weights, value, sampled, masks, None if gram is None else gram[head])
                    sums[head].index_add_(1, sampled.numbers, found)
        if columns is not None:
            columns.copy_(shown)
        if maps is not None:
            maps += between.cpu()
        return _means(sums.cpu().double(), max(1, len(tokens) * batch), head_dim)

    def _part_rows(self, head_dim: int, device: torch.device, free: int | None) -> int:
        """Rows whose partial sums are held at a time."""
        tiles = max(tiling.key_tiles for tiling in self.tilings.values())
        row = 4 * (tiles * head_dim + 3 * self.grid.tokens)
        rows = max(1, PARTIAL_SUM_BYTES // row)
        if free is None:
            return rows
        # a head's k and v in float32, and of each row its masks and outputs by every candidate beside the sums
        shared = 4 * 3 * self.grid.tokens * head_dim
        row += 4 * max(map(len, self.of_order.values())) * (3 * tiles + 4 * head_dim)
        fitting = (free - shared) // row
        if fitting < 1:
            raise ValueError(
                f"evaluating candidates takes {(shared + row) / 1e6:.0f} MB at least, {free / 1e6:.0f} MB are free on "
                f"{device}: measure a smaller video, or keep more of the model outside of the device"
            )
        return min(rows, fitting)

    def _cells_on(self, device: torch.device) -> Cells:
        if device not in self._cells:
            self._cells[device] = self.cells.to(device)
        return self._cells[device]

    def sample_tokens(self, generator: torch.Generator) -> Tensor:
        """Sequence positions of sampled queries, the same for every candidate: in a full tile of every order."""
        first, *others = self.tilings.values()
        tokens = first.index[sample_rows(first, self.rows, generator)]
        for tiling in others:
            tokens = tokens[self.ranks[tiling.order][tokens] < tiling.query_tiles * tiling.query_tile]
        return tokens[torch.randperm(len(tokens), generator=generator)]  # so that the first part knows all columns

    def _sampled(self, order: str, tokens: Tensor, device: torch.device) -> SampledQueries:
        """What all heads share of queries at these sequence positions."""
        tiling, numbers = self.tilings[order], self.of_order[order]
        rows = self.ranks[order][tokens]
        tiles, of_row = (rows // tiling.query_tile).unique(return_inverse=True)
        places = tiling.index[tiles[:, None] * tiling.query_tile + torch.arange(tiling.query_tile)]
        masks = torch.stack([self.masks[number][rows // tiling.query_tile] for number in numbers])
        skip = torch.tensor([isinstance(self.candidates[number], Skip) for number in numbers])
        on_device = (x.to(device) for x in (torch.tensor(numbers), tiling.index, places, of_row, masks, skip))
        return SampledQueries(tiling, *on_device)

    def _masks(self, sampled: SampledQueries, q: Tensor, k: Tensor, cells: Cells, shown: Tensor) -> Tensor:
        """Key tiles that an order's candidates keep for one head's q, k (S, D), (C, rows, key_tiles)."""
        offered = [self.candidates[number] for number in self.of_order[sampled.tiling.order]]
        masks = sampled.masks.clone()
        fill_routed(masks, [(n, p) for n, p in enumerate(offered) if isinstance(p, Routed)], q, k, sampled)
        for place, pattern in enumerate(offered):
            if isinstance(pattern, ProfiledStripe):
                masks[place] |= cells.tiles(shown, pattern.share)
        return masks


@dataclass(frozen=True)
class SampledQueries:
    """Sampled queries in one token order.

    Attributes:
        numbers: of the order's candidates among all, (C,).
        index: sequence position of each sorted token, (S,).
        places: sequence positions of the query tiles that the queries lie in, (tiles, query_tile).
        of_row: number of each query's tile among those, (rows,).
        masks: key tiles that candidates keep whatever is shown, bool (C, rows, key_tiles).
        skip: candidates that give nothing, bool (C,).
    """

    tiling: Tiling
    numbers: Tensor
    index: Tensor
    places: Tensor
    of_row: Tensor
    masks: Tensor
    skip: Tensor


def fill_routed(
    masks: Tensor, routed: Sequence[tuple[int, Routed]], q: Tensor, k: Tensor, sampled: SampledQueries
) -> None:
    """Put in masks (C, rows, key_tiles) what routed candidates, by their places there, choose for one head's q, k
    (S, D)."""
    if not routed:
        return
    tiling = sampled.tiling
    q_means = q[sampled.places].mean(1, dtype=torch.float32)
    keys = k[sampled.index[: tiling.key_tiles * tiling.key_tile]]
    k_means = keys.unflatten(0, (-1, tiling.key_tile)).mean(1, dtype=torch.float32)
    scores = q_means @ k_means.T
    for place, pattern in routed:
        mask = torch.zeros(len(q_means), tiling.key_tiles, dtype=torch.bool, device=q.device)
        masks[place] = mask.scatter_(1, best_tiles(scores, pattern.kept_tiles(tiling)), True)[sampled.of_row]


def _exact(device: torch.device) -> torch.dtype:
    """For sums: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _means(sums: Tensor, seen: int, head_dim: int) -> HeadErrors:
    """From sums (H, 6, C) over rows and batch."""
    projected, squared, output, mass, power, square = sums.unbind(1)
    relative, mse = squared / output.clamp_min(1e-30), squared / (seen * head_dim)
    return HeadErrors(projected / seen, relative, mse, mass / seen, power / seen, square / seen)


def _evaluate(weights: Tensor, v: Tensor, sampled: SampledQueries, masks: Tensor, gram: Tensor | None) -> Tensor:
    """Sums over rows of (projected, squared error, squared output, kept mass, power, square) per candidate: (6, C).

    Args:
        weights: softmax of the sampled rows over all keys of one head, (rows, S).
        v: (S, D).
        masks: (C, rows, key_tiles) in the order of `sampled`.
    """
    tiling = sampled.tiling
    tiled = tiling.key_tiles * tiling.key_tile
    inside, rest = sampled.index[:tiled], sampled.index[tiled:]
    tiled_weights = weights[:, inside].unflatten(1, (tiling.key_tiles, tiling.key_tile))
    tiled_v = v[inside].float().unflatten(0, (-1, tiling.key_tile))
    numerators = torch.einsum("rnk,nkd->rnd", tiled_weights, tiled_v)
    always, always_mass = weights[:, rest] @ v[rest].float(), weights[:, rest].sum(-1)
    exact = numerators.sum(1) + always
    kept = masks.float()
    numerator = torch.einsum("crn,rnd->crd", kept, numerators) + always
    mass = torch.einsum("crn,rn->cr", kept, tiled_weights.sum(-1)) + always_mass
    output = numerator / mass.clamp_min(1e-20)[..., None]
    live = ~sampled.skip[:, None]
    error = torch.where(live[..., None], output, 0.0) - exact
    squared, size = error.square().sum(-1), exact.square().sum(-1)
    if gram is None:
        projected, power = squared, size
    else:
        gram = gram.to(error)
        projected, power = ((error @ gram) * error).sum(-1), ((exact @ gram) * exact).sum(-1)
    sums = [projected, squared, size.expand_as(squared), mass * live, power.expand_as(squared), projected.square()]
    return torch.stack(sums).to(_exact(v.device)).sum(-1)
