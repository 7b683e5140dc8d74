"""Measures heads while a run goes on: which calls, and at what cost beside the dense ones.

Each layer is measured once in each band of noise levels, all of them in one step: the last one of the dense start, as
heads look otherwise at noise alone, and the first one of every later band, so that the band's other steps can use it.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence

import torch

from ....kernels.tiling import QUERY_TILE
from ....plans.profile.profile import Profile
from ..library.found import HIGHEST, LOWEST, SIGMA_SLACK, noted
from ..session.call import Call
from .profile import ProfilePolicy

ROWS, MIN_ROWS = 256, 64  # of each head and call; fewer say too little
MAX_SHARE = 0.05  # of the time of the dense calls beside
TOO_SLOW = 2.0  # times that share of the time that passed, from which on rows are left out after all
WORTH = 5.0  # seconds of a step, below which a sparse one measures however slow: only one of each band does
SLOWER = {"cpu": 4.5, "cuda": 8.0}
"""How many times as long an operation of judging takes as one of dense attention. On a CPU as measured (4.2 and 5.1
with 8,736 and 3,564 tokens in float32); on GPUs, where one is in float32 and the other on tensor cores, a guess."""

NOT_FINITE_QKV = "queries, keys or values that are not finite"
OTHER_SIZE = "video of another size than the one that is measured"
NO_FULL_TILE = f"video of fewer than {QUERY_TILE} tokens, of which nothing can be left out"


class Measurement:
    """What one run measures; rows are left out where that is too much.

    Args:
        profiling: the profile policy for so many rows of a head.
        layers: of the model.
        begin: noise level from which on they are measured.
        notes: for the profile.
        progress: gets how many of how many layers were measured for the first plan.
        sigmas: noise levels of the steps.
        known: (band, layer) that an earlier run has measured.

    Attributes:
        active: whether anything more is measured.
        sparse: whether the step now running is sparse; a plan runs without what it measures.
    """

    def __init__(
        self,
        profiling: Callable[[int], ProfilePolicy],
        layers: int,
        begin: float,
        notes: dict[str, float | int | str],
        progress: Callable[[int, int], None] = lambda done, of: None,
        sigmas: Sequence[float] = (),
        known: frozenset[tuple[int, int]] = frozenset(),
    ):
        self._profiling, self.layers, self.begin, self.notes = profiling, layers, begin, notes
        self.progress, self.sigmas, self.known = progress, tuple(sigmas), known
        self.active, self.sparse = True, False
        self.sigma = math.inf
        self.milliseconds, self.seconds = 0.0, 0.0
        self.policy: ProfilePolicy | None = None
        self._share, self._began = MAX_SHARE, 0.0
        self._levels: list[float] = []
        self._refused: Counter[str] = Counter()
        self._ended, self._judged = (0.0, 0.0), False
        self._seen: set[tuple[int | None, int]] = set()  # (band, layer)
        self._too_slow = False
        self._profile: Profile | None = None

    @property
    def complete(self) -> bool:
        """Whether every layer was measured in one band, from which a plan can be searched."""
        return self.layers in Counter(band for band, _ in self._seen).values()

    @property
    def bands(self) -> int:
        """How many bands were measured; some layers may be missing, as no call of theirs could be."""
        return len({band for band, _ in self._seen})

    @property
    def met(self) -> bool:
        """Whether any call came that was wanted."""
        return bool(self._levels or self._refused)

    def begin_step(self, sigma: float) -> None:
        """A forward at this noise level begins, the first of a step or another one of it."""
        if sigma != self.sigma:
            self.sigma = sigma
            self._keep_up()
        self._began = self._began or time.perf_counter()

    def _keep_up(self) -> None:
        """Leave out rows where judging took longer in the step that ended than was foreseen, and with the fewest rows
        what sparse steps measure: not every device was measured. The first step that judges does not count: in it the
        candidates' masks are made, once."""
        before, self._ended = self._ended, (time.perf_counter(), self.milliseconds / 1000)
        if self.policy is None or not self.milliseconds:
            return
        passed, spent = (now - then for now, then in zip(self._ended, before, strict=True))
        first, self._judged = not self._judged, True
        share = spent / max(1e-9, passed - spent)
        if not first and share > TOO_SLOW * self._share:
            profiler = self.policy.profiler
            self._too_slow = profiler.rows <= MIN_ROWS and spent > WORTH
            profiler.use_fewer_rows(max(MIN_ROWS, int(profiler.rows * self._share / share)))

    def take(self, call: Call) -> bool:
        """Whether a call is to be measured; counts why it cannot be. One of each layer and band, as the other prompt or
        context window of the same step costs as much again and tells little more."""
        if not self.active:
            return False
        if self.policy is None:
            self.policy = self._start(call)
        return self._wants(call.layer) and not self._refuse(call)

    def _wants(self, layer: int | None) -> bool:
        if self.sigma > self.begin * (1 + SIGMA_SLACK) or (self.sparse and self._too_slow):
            return False
        place = self.policy.profiler.band_at(self.sigma), layer
        return layer in range(self.layers) and place not in self._seen and place not in self.known

    def _start(self, call: Call) -> ProfilePolicy:
        """Choose rows by the size of the first call: what one step measures is paid by all of its band's."""
        policy = self._profiling(ROWS)
        bands = Counter(map(policy.profiler.band_at, self.sigmas))
        self._share = MAX_SHARE * min(bands.values(), default=1)
        candidates = len(policy.profiler.candidates)
        share = judged_share(call.grid.tokens, call.q.shape[-1], candidates) * SLOWER.get(call.q.device.type, 1.0)
        rows = int(ROWS * min(1.0, self._share / share))
        return policy if rows >= ROWS else self._profiling(max(rows, MIN_ROWS))

    def _refuse(self, call: Call) -> bool:
        """Whether a call cannot be measured; counts why."""
        measured = self.policy.profiler.grid
        other = measured is not None and measured.shape != call.grid.shape
        small = call.grid.video_tokens < QUERY_TILE
        why = NO_FULL_TILE if small else OTHER_SIZE if other else self.policy.refusal(call)
        if why is None and not all(torch.isfinite(x.sum(dtype=torch.float32)) for x in (call.q, call.k, call.v)):
            why = NOT_FINITE_QKV
        if why is not None:
            self._refused[str(why)] += 1
        return why is not None

    def observe(self, call: Call) -> None:
        """Measure a call that is wanted; in a step that runs sparse nothing of it stays on the device."""
        self.policy.observe(call, self.sigma)
        if self.sparse:
            self.policy.forget()
        self._seen.add((self.policy.profiler.band_at(self.sigma), call.layer))
        if len(self._seen) <= self.layers:
            self.progress(len(self._seen), self.layers)
        self._levels.append(self.sigma)

    def so_far(self) -> Profile | None:
        """What was measured by now, None where nothing usable was."""
        if self.policy is None or not self._levels:
            return self._profile
        notes = {**self.notes, HIGHEST: max(self._levels), LOWEST: min(self._levels)}
        try:
            self._profile = noted(self.policy.profiler.profile(), notes)
        except ValueError as error:  # numbers of the model that are not finite
            self._refused[str(error)] += 1
        return self._profile

    def end(self) -> Profile | None:
        """The same, and nothing more is measured then."""
        found = self.so_far()
        self.stop()
        return found

    def forget(self) -> None:
        """Drop what lies on the device."""
        if self.policy is not None:
            self.policy.forget()

    def stop(self) -> None:
        """Measure nothing more; what was measured since `so_far` is forgotten."""
        self.active = False
        if self.policy is not None:
            self.seconds = time.perf_counter() - self._began
            self.policy.free()
            self.policy = None

    def drop(self) -> None:
        """Forget all of it, and measure nothing more."""
        self._profile = None
        self._levels.clear()
        self.stop()

    def summary(self) -> str:
        """What was measured, how long it took, and what that is beside everything else meanwhile, in words."""
        spent = self.milliseconds / 1000
        share = spent / max(1e-9, self.seconds - spent)
        others = "".join(f", {count} left out: {why}" for why, count in self._refused.most_common())
        return f"measured {len(self._levels)} calls in {spent:.2f} s, {share:.1%} on top of those steps{others}"


def judged_share(tokens: int, head_dim: int, candidates: int, rows: int = ROWS) -> float:
    """Operations of judging a call over those of computing it: products of rows with keys, of weights with values in
    two token orders, and of each candidate's masks with sums of tiles of 64; `benchmarks/quality/profile_cost.py`
    counts them."""
    per_row = tokens * head_dim * (2 + 2 * 2 + 2 * candidates / 64) + 2 * candidates * head_dim**2
    return rows * per_row / (4 * tokens**2 * head_dim)
