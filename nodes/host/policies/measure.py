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
from ..library.found import HIGHEST, LOWEST, SIGMA_SLACK, noted
from ..session.call import Call
from .profile import ProfilePolicy

ROWS, MIN_ROWS = 256, 64  # of each head and call; fewer say too little
MAX_SHARE = 0.05  # of the time of the dense calls beside
TOO_SLOW = 2.0  # times that share of the time that passed, from which on rows are left out after all
WORTH = 1.0  # seconds of a step, below which what no plan waits for is measured however slow
SLOWER = {"cpu": 4.5, "cuda": 8.0}
"""How many times as long an operation of judging takes as one of dense attention. On a CPU as measured (4.2 and 5.1
with 8,736 and 3,564 tokens in float32); on GPUs, where one is in float32 and the other on tensor cores, a guess."""

NOT_FINITE_QKV = "queries, keys or values that are not finite"
OTHER_SIZE = "video of another size than the one that is measured"
NO_FULL_TILE = f"video of fewer than {QUERY_TILE} tokens, of which nothing can be left out"


class Measurement:
    """What one run measures. Every layer, spread over the steps of a band; rows are left out where that is too much.

    Args:
        profiling: the profile policy for so many rows of a head.
        layers: of the model.
        steps: dense steps of this sampler, over which layers are spread; 0 where it has none.
        notes: for the profile.
        progress: gets how many of how many layers were measured for the first plan.
        later: noise levels of the steps after them.
        known: (band, layer) that an earlier run has measured.
        known_up_to: the highest noise level at which it has; above it the first band is measured again.

    Attributes:
        active: whether anything more is measured.
        sparse: whether the step now running is sparse; it measures what no plan waits for.
        spread: whether it is one of several dense steps; in a single one all that is missing is wanted.
    """

    def __init__(
        self,
        profiling: Callable[[int], ProfilePolicy],
        layers: int,
        steps: int,
        notes: dict[str, float | int | str],
        progress: Callable[[int, int], None] = lambda done, of: None,
        later: Sequence[float] = (),
        known: frozenset[tuple[int, int]] = frozenset(),
        known_up_to: float = 0.0,
    ):
        self._profiling, self.layers, self.steps, self.notes = profiling, layers, max(1, steps), notes
        self.progress, self.later, self.known, self.known_up_to = progress, tuple(later), known, known_up_to
        self.active, self.sparse, self.spread = True, False, True
        self.sigma = math.inf
        self.milliseconds, self.seconds = 0.0, 0.0
        self.policy: ProfilePolicy | None = None
        self._parts, self._step, self._began = 1, -1, 0.0
        self._levels: list[float] = []
        self._refused: Counter[str] = Counter()
        self._ended, self._judged = (0.0, 0.0), False
        self._seen: defaultdict[int | None, set[int]] = defaultdict(set)  # layers by band
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
        return bool(self._levels or self._refused)

    def begin_step(self, sigma: float) -> None:
        """A forward at this noise level begins, the first of a step or another one of it."""
        if sigma != self.sigma:
            self._step, self.sigma, self._due, self._here = self._step + 1, sigma, None, set()
            self._keep_up()
        self._began = self._began or time.perf_counter()

    def _keep_up(self) -> None:
        """Leave out rows where judging took longer in the step that ended than was foreseen, and with the fewest rows
        what no plan waits for: not every device was measured. The first step that judges does not count: in it the
        candidates' masks are made, once."""
        before, self._ended = self._ended, (time.perf_counter(), self.milliseconds / 1000)
        if self.policy is None or not self.milliseconds:
            return
        passed, spent = (now - then for now, then in zip(self._ended, before, strict=True))
        first, self._judged = not self._judged, True
        share = spent / max(1e-9, passed - spent)
        if not first and share > TOO_SLOW * MAX_SHARE:
            profiler = self.policy.profiler
            self._too_slow = profiler.rows <= MIN_ROWS and spent > WORTH
            profiler.use_fewer_rows(max(MIN_ROWS, int(profiler.rows * MAX_SHARE / share)))

    def take(self, call: Call) -> bool:
        """Whether a call is to be measured; counts why it cannot be. One of each layer and noise level at most, as the
        other prompt or context window of the same step costs as much again and tells little more."""
        if not self.active:
            return False
        if self.policy is None:
            self.policy = self._start(call)
        if self._due is None:
            self._due = self._due_now()
        return call.layer in self._due and not self._refuse(call) and call.layer not in self._here

    def _due_now(self) -> set[int]:
        """Layers to measure in the step that begins."""
        band = self._band_at(self.sigma)
        higher = self.spread and self.sigma > self.known_up_to * (1 + SIGMA_SLACK)
        unknown = [layer for layer in range(self.layers) if higher or (band, layer) not in self.known]
        if self.spread:
            return {layer for layer in unknown if layer % self._parts == self._step % self._parts}
        missing = [layer for layer in unknown if layer not in self._seen[band]]
        if not self.sparse:
            return set(missing)
        if self._too_slow:
            return set()
        steps = sum(self._band_at(sigma) == band for sigma in self.later)
        if self.known:  # the last run that adds: what is missing is measured
            left = sum(self._band_at(sigma) == band for sigma in self.later if sigma <= self.sigma)
            return set(missing[: math.ceil(len(missing) / max(1, left))])
        return set(missing[: math.ceil(self.layers / max(steps, self._parts))])

    def _band_at(self, sigma: float) -> int | None:
        return self.policy.profiler.band_at(sigma)

    def _start(self, call: Call) -> ProfilePolicy:
        """Choose rows and parts by the size of the first call."""
        policy = self._profiling(ROWS)
        candidates = len(policy.profiler.candidates)
        share = judged_share(call.grid.tokens, call.q.shape[-1], candidates) * SLOWER.get(call.q.device.type, 1.0)
        self._parts = min(self.steps, max(1, math.ceil(share / MAX_SHARE)))
        rows = int(ROWS * min(1.0, MAX_SHARE * self._parts / share))
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
        self._here.add(call.layer)
        seen = self._seen[self._band_at(self.sigma)]
        if call.layer not in seen:
            seen.add(call.layer)
            if len(self._seen) == 1:
                self.progress(len(seen), self.layers)
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
