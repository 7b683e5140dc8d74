"""Measures heads while a run goes on: which calls, and at what cost beside the dense ones.

In the dense steps that is what a first plan is searched from. In the sparse ones after them each layer is measured once
in each band of noise levels, on the queries and keys that are there: the plan of the next run knows all noise levels.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import torch

from ....kernels.tiling import QUERY_TILE
from ....plans.profile.profile import Profile
from ..runs.engine import Call
from ..runs.profile_engine import ProfileEngine
from ..runs.run import Run
from .calibrated_plan import HIGHEST, LOWEST, noted

ROWS, LEAST_ROWS = 256, 64  # of each head and call; fewer say too little
MOST_SHARE = 0.05  # of the time of the dense calls beside
TOO_SLOW = 2.0  # times that share of the time that passed, from which on rows are left out after all
WORTH = 1.0  # seconds of a step, below which what no plan waits for is measured however slow
SLOWER = {"cpu": 4.5, "cuda": 8.0}
"""How many times as long an operation of judging takes as one of dense attention. On a CPU as measured (4.2 and 5.1
with 8,736 and 3,564 tokens in float32); on GPUs, where one is in float32 and the other on tensor cores, a guess."""

NOT_FINITE = "queries, keys or values that are not finite"
OTHER_SIZE = "video of another size than the one that is measured"
NO_FULL_TILE = f"video of fewer than {QUERY_TILE} tokens, of which nothing can be left out"


class Measuring:
    """What one run measures. Every layer, spread over the steps of a band; rows are left out where that is too much.

    Args:
        make_engine: the profile engine for so many rows of a head.
        layers: of the model.
        steps: dense steps of this sampler, over which layers are spread; 0 where it has none.
        notes: for the profile.
        progress: is told how many of how many layers were measured for the first plan.
        later: noise levels of the steps after them.
        known: (band, layer) that earlier runs have measured, whose turn comes last.
    """

    def __init__(
        self,
        make_engine: Callable[[int], ProfileEngine],
        layers: int,
        steps: int,
        notes: dict[str, float | int | str],
        progress: Callable[[int, int], None] = lambda done, of: None,
        later: Sequence[float] = (),
        known: frozenset[tuple[int, int]] = frozenset(),
    ):
        self.progress = progress
        self.make_engine, self.layers, self.steps, self.notes = make_engine, layers, max(1, steps), notes
        self.later, self.known = tuple(later), known
        self.engine: ProfileEngine | None = None
        self.parts, self.step, self.sigma = 1, -1, math.inf
        self.levels: list[float] = []
        self.refused: Counter[str] = Counter()
        self.milliseconds, self.began, self.seconds = 0.0, 0.0, 0.0
        self.stopped = False
        self._ended, self._judged = (0.0, 0.0), False
        self._seen: defaultdict[int, set[int]] = defaultdict(set)  # layers by band
        self._due: set[int] | None = None
        self._too_slow = False
        self._here: set[int] = set()
        self._profile: Profile | None = None

    @property
    def complete(self) -> bool:
        """Whether every layer was measured in one band, from which a plan can be searched."""
        return any(len(layers) == self.layers for layers in self._seen.values())

    @property
    def met(self) -> bool:
        """Whether any call came that was wanted."""
        return bool(self.levels or self.refused)

    def begin(self, sigma: float) -> None:
        """A forward at this noise level begins, the first of a step or another one of it."""
        if sigma != self.sigma:
            self.step, self.sigma, self._due, self._here = self.step + 1, sigma, None, set()
            self._keep_up()
        self.began = self.began or time.perf_counter()

    def _keep_up(self) -> None:
        """Leave out rows where judging took longer in the step that ended than was foreseen, and with the fewest rows
        what no plan waits for: not every device was measured. The first step that judges does not count: in it the
        candidates' masks are made, once."""
        before, self._ended = self._ended, (time.perf_counter(), self.milliseconds / 1000)
        if self.engine is None or not self.milliseconds:
            return
        passed, spent = (now - then for now, then in zip(self._ended, before, strict=True))
        first, self._judged = not self._judged, True
        if not first and spent > TOO_SLOW * MOST_SHARE * max(1e-9, passed - spent):
            share = spent / max(1e-9, passed - spent)
            profiler = self.engine.profiler
            self._too_slow = profiler.rows <= LEAST_ROWS and spent > WORTH
            profiler.use_fewer_rows(max(LEAST_ROWS, int(profiler.rows * MOST_SHARE / share)))

    def wants(self, call: Call, spread: bool, sparse: bool = False) -> bool:
        """Whether a call is to be measured: one of each layer and noise level at most, as the other prompt or context
        window of the same step costs as much again and tells little more.

        Args:
            spread: it is one of several dense steps; else it is in the only one, where all that is missing is wanted.
            sparse: it is in a step that runs sparse.
        """
        if self.stopped:
            return False
        if self.engine is None:
            self._start(call)
        if self._due is None:
            self._due = self._due_now(spread, sparse)
        return call.layer in self._due and not self._refused(call) and call.layer not in self._here

    def _due_now(self, spread: bool, sparse: bool) -> set[int]:
        """Layers to measure in the step that begins."""
        if spread:
            return {layer for layer in range(self.layers) if layer % self.parts == self.step % self.parts}
        band = self.band_at(self.sigma)
        missing = [layer for layer in range(self.layers) if layer not in self._seen[band]]
        if not sparse:
            return set(missing)
        steps = sum(self.band_at(sigma) == band for sigma in self.later)
        missing.sort(key=lambda layer: (band, layer) in self.known)
        most = max(steps, self.parts)  # of which a step measures one
        return set() if self._too_slow else set(missing[: math.ceil(self.layers / most)])

    def band_at(self, sigma: float) -> int | None:
        """Number of the band that a noise level lies in."""
        return self.engine.profiler.band_at(sigma)

    def _start(self, call: Call) -> None:
        """Choose rows and parts by the size of the first call."""
        tokens, head_dim = sum(call.layout[3:]) + math.prod(call.layout[:3]), call.q.shape[-1]
        self.engine = self.make_engine(ROWS)
        candidates = len(self.engine.profiler.candidates)
        share = judged_share(tokens, head_dim, candidates) * SLOWER.get(call.q.device.type, 1.0)
        self.parts = min(self.steps, max(1, math.ceil(share / MOST_SHARE)))
        rows = int(ROWS * min(1.0, MOST_SHARE * self.parts / share))
        if rows < ROWS:
            self.engine = self.make_engine(max(rows, LEAST_ROWS))

    def _refused(self, call: Call) -> bool:
        measured = self.engine.profiler.grid
        other = measured is not None and measured.shape != tuple(call.layout[:3])
        small = math.prod(call.layout[:3]) < QUERY_TILE
        why = NO_FULL_TILE if small else OTHER_SIZE if other else self.engine.refusal(call)
        if why is None and not all(torch.isfinite(x.sum(dtype=torch.float32)) for x in (call.q, call.k, call.v)):
            why = NOT_FINITE
        if why is not None:
            self.refused[why] += 1
        return why is not None

    def observe(self, run: Run, call: Call, sparse: bool = False) -> None:
        """Measure a call that is wanted; in a step that runs sparse nothing of it stays on the device."""

        def add(milliseconds: float) -> None:
            self.milliseconds += milliseconds

        stop = run.time(call.q.device, "calibration", add)
        self.engine.observe(call, self.sigma)
        stop()
        if sparse:
            self.forget()
        self._here.add(call.layer)
        seen = self._seen[self.band_at(self.sigma)]
        if call.layer not in seen:
            seen.add(call.layer)
            if len(self._seen) == 1:
                self.progress(len(seen), self.layers)
        self.levels.append(self.sigma)

    def so_far(self) -> Profile | None:
        """What was measured by now, None where nothing of use was."""
        if self.engine is None or not self.levels:
            return self._profile
        notes = {**self.notes, HIGHEST: max(self.levels), LOWEST: min(self.levels)}
        try:
            self._profile = noted(self.engine.profiler.profile(), notes)
        except ValueError as error:  # numbers of the model that are not finite
            self.refused[str(error)] += 1
        return self._profile

    def profile(self) -> Profile | None:
        """The same, and nothing more is measured then."""
        found = self.so_far()
        self.stop()
        return found

    def forget(self) -> None:
        """Drop what lies on the device."""
        if self.engine is not None:
            self.engine.forget()

    def stop(self) -> None:
        """Measure nothing more; what was measured since `so_far` is forgotten."""
        self.stopped = True
        if self.engine is not None:
            self.seconds = time.perf_counter() - self.began
            self.engine.free()
            self.engine = None

    def drop(self) -> None:
        """Forget all of it, and measure nothing more."""
        self._profile = None
        self.levels.clear()
        self.stop()

    def told(self) -> str:
        """What was measured, how long it took, and what that is beside everything else meanwhile, in words."""
        spent = self.milliseconds / 1000
        share = spent / max(1e-9, self.seconds - spent)
        others = "".join(f", {count} left out: {why}" for why, count in self.refused.most_common())
        return f"measured {len(self.levels)} calls in {spent:.2f} s, {share:.1%} on top of those steps{others}"


def judged_share(tokens: int, head_dim: int, candidates: int, rows: int = ROWS) -> float:
    """Operations of judging a call over those of computing it: products of rows with keys, of weights with values in
    two token orders, and of each candidate's masks with sums of tiles of 64; `benchmarks/profile_cost.py` counts them.
    """
    per_row = tokens * head_dim * (2 + 2 * 2 + 2 * candidates / 64) + 2 * candidates * head_dim**2
    return rows * per_row / (4 * tokens**2 * head_dim)
