"""Measures a profile while a model generates: one call per attention layer and step.

`flow="dense"` leaves the model's own output alone. `flow="sequential"` is Algorithm 1 of Sparse-vDiT: the pattern
chosen for each head at once replaces its output, so that later layers and steps see the errors of earlier ones.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...kernels.attention import sparse_attention
from ...kernels.grid import TokenGrid
from ...kernels.lists import TileListBuilder, TileLists
from ...kernels.patterns import Dense, Pattern
from ...kernels.tiling import KEY_TILE, QUERY_TILE
from ..plan.plan import clean_text
from ..plan.versions import installed_versions
from .errors import CandidateEvaluator
from .head_maps import as_shares, part_count
from .profile import FLOWS, MEASURES, Profile, ProfileHeader, check_mergeable, merge_profiles
from .rules import DEFAULT_EPSILON, DEFAULT_LAMBDA, paper_choice, paper_kinds, saving


class Profiler:
    """Collects the errors of all candidates over the observations of one or more generations.

    Args:
        candidates: patterns to judge; dense is put first when it is not there.
        bands: (sigma_high, sigma_low) in falling order; observations outside all bands only pass through.
        rows: query rows sampled per observation and head.
        lam, epsilon: lambda and epsilon of the paper's Eq. 2 and 3, used by sequential flow alone.
        versions: of what else took part, kept with those of the pack, Python and torch.
        previous: measurements to add these to.
        maps: whether to keep what each head attends, as small pictures (`head_maps`); it takes a little time.

    Raises:
        ValueError: an unknown flow, no band, or bands out of order.
    """

    def __init__(
        self,
        family: str,
        model: str,
        layers: int,
        heads: int,
        head_dim: int,
        candidates: Sequence[Pattern],
        bands: Sequence[tuple[float, float]],
        rows: int = 256,
        query_tile: int = QUERY_TILE,
        key_tile: int = KEY_TILE,
        flow: str = "dense",
        seed: int = 0,
        prompts: Sequence[str] = (),
        lam: float = DEFAULT_LAMBDA,
        epsilon: float = DEFAULT_EPSILON,
        versions: Mapping[str, str] | None = None,
        previous: Profile | None = None,
        maps: bool = False,
    ):
        if flow not in FLOWS:
            raise ValueError(f"flow is {flow!r}, expected one of {', '.join(FLOWS)}")
        if not bands or any(high <= low for high, low in bands) or list(bands) != sorted(bands, reverse=True):
            raise ValueError(f"bands are {list(bands)!r}, expected (high, low) pairs in falling order")
        if rows < 1:
            raise ValueError(f"rows is {rows}, expected at least 1 query row to sample")
        self.names: dict = {"family": family, "model": model, "layers": layers, "heads": heads, "head_dim": head_dim}
        self.candidates = (Dense(), *(p for p in candidates if not isinstance(p, Dense)))
        self.bands, self.rows, self.flow, self.prompts = tuple(bands), rows, flow, tuple(map(clean_text, prompts))
        self.query_tile, self.key_tile = query_tile, key_tile
        self.lam, self.epsilon, self.seed = lam, epsilon, seed
        self.versions = {**installed_versions(), **(versions or {})}
        self.previous = previous
        self.grid: TokenGrid | None = None
        self.evaluator: CandidateEvaluator | None = None
        self.lists: TileLists | None = None
        self.list_of: dict[int, int] = {}
        self.densities: tuple[float, ...] = ()
        self.generator = torch.Generator().manual_seed(seed)
        self.projected = True
        shape = (len(self.bands), layers, heads, len(self.candidates))
        self.sums = {name: torch.zeros(shape, dtype=torch.float64) for name in MEASURES}
        self.votes = torch.zeros(shape, dtype=torch.float64)
        self.samples = torch.zeros(shape[:2], dtype=torch.int64)
        self.columns: Tensor | None = None
        self.keeps_maps = maps
        self.maps: Tensor | None = None

    def band_at(self, sigma: float) -> int | None:
        """Number of the band that a noise level lies in, None outside all of them."""
        return next((n for n, (high, low) in enumerate(self.bands) if low < sigma <= high), None)

    @torch.no_grad()
    def observe(
        self,
        layer: int,
        sigma: float,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grid: TokenGrid,
        gram: Tensor | None,
        free: int | None = None,
    ) -> Tensor | None:
        """Judge all candidates on one attention call.

        Args:
            q, k, v: (B, S, H, D).
            gram: (H, D, D), W_O^T W_O of each head's columns of the output projection; None for plain ||dO||^2.
            free: bytes of the device's memory that may be taken; None where that is not known.

        Returns:
            None in dense flow, where the caller runs its own attention; else the output (B, S, H, D) that flows on.

        Raises:
            ValueError: another token grid than the first call's, as a profile is of one grid; a first call that
                shows that the previous profile was measured otherwise; or too little memory.
        """
        band = self.band_at(sigma)
        if band is None:
            return None
        self.projected &= gram is not None
        self._bind(grid, q.device)
        maps = None if self.maps is None else self.maps[layer]
        errors = self.evaluator.errors(q, k, v, gram, self.generator, self.columns[band, layer], maps, free)
        for name in MEASURES:
            self.sums[name][band, layer] += getattr(errors, name)
        self.samples[band, layer] += 1
        if self.flow == "dense":
            return None
        mse = errors.mse.masked_fill(~self._flowing(), torch.inf)
        chosen = paper_choice(mse, torch.tensor(self.densities), self.lam, self.epsilon)
        self.votes[band, layer, torch.arange(len(chosen)), chosen] += 1
        return sparse_attention(q, k, v, self.lists, [self.list_of[number] for number in chosen.tolist()])

    def _flowing(self) -> Tensor:
        """Candidates that may flow on, bool (candidates,)."""
        return saving(torch.tensor(self.densities)) & paper_kinds(self.candidates)

    def use_fewer_rows(self, rows: int) -> None:
        """Sample at most so many query rows from now on; the profile counts every observation as one of so few."""
        self.rows = min(self.rows, rows)
        if self.evaluator is not None:
            self.evaluator.rows = self.rows

    def profile(self) -> Profile:
        """The means over everything observed so far, the previous profile included.

        Raises:
            ValueError: nothing was observed yet.
        """
        if self.grid is None:
            raise ValueError("nothing was observed: no attention call was recognised, or no step lay in a band")
        count = self.samples.clamp_min(1)[..., None, None]
        measures = {name: total / count for name, total in self.sums.items()}
        columns = (self.columns / self.columns.sum(-1, keepdim=True).clamp_min(1e-30)).float()
        counted = (self.votes.clone(), self.samples.clone())
        maps = None if self.maps is None else as_shares(self.maps)
        own = Profile(self._header(), measures, *counted, columns, maps)
        return own if self.previous is None else merge_profiles(self.previous, own)

    def _header(self) -> ProfileHeader:
        return ProfileHeader(
            **self.names,
            query_tile=self.query_tile,
            key_tile=self.key_tile,
            grid=self.grid.shape,
            candidates=self.candidates,
            densities=self.densities,
            bands=self.bands,
            flow=self.flow,
            projected=self.projected,
            parameters={"rows": self.rows, "seed": self.seed, "lambda": self.lam, "epsilon": self.epsilon},
            prompts=self.prompts,
            versions=self.versions,
            date=datetime.date.today().isoformat(),
        )

    def _bind(self, grid: TokenGrid, device: torch.device) -> None:
        if self.grid is None:
            self.grid = grid
            self.evaluator = CandidateEvaluator(grid, self.candidates, self.rows, self.query_tile, self.key_tile)
            self.densities = self.evaluator.densities()
            self.columns = torch.zeros(*self.votes.shape[:3], len(self.evaluator.cells.boxes), dtype=torch.float64)
            if self.keeps_maps:
                self.maps = torch.zeros(*self.votes.shape[1:3], *([part_count(grid.shape)] * 2), dtype=torch.float64)
            if self.flow != "dense":  # of all candidates they would be too large, and take seconds
                builder = TileListBuilder(grid, self.query_tile, self.key_tile)
                flowing = self._flowing().nonzero().flatten().tolist()
                self.list_of = {number: builder.add(self.candidates[number]) for number in flowing}
                self.lists = builder.build().to(device)
            if self.previous is not None:  # now, and not after minutes of sampling
                check_mergeable(self.previous.header, self._header())
        elif grid != self.grid:
            raise ValueError(f"token grid changed from {self.grid} to {grid}; profile one size at a time")
