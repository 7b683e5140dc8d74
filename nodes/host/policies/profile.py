"""Profiling: what a run of Profile Heads does with each self-attention call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ....kernels.grid import TokenGrid
from ....plans.profile.profiler import Profiler
from ..core import fallback
from ..core.fallback import Dense
from ..models import Family
from ..session.call import Call, Computed
from ..session.memory import free_memory


class ProfilePolicy:
    """Shows every self-attention call to the profiler; the video stays dense unless the profiler's flow is not.

    Args:
        profiler: collects the measures.
        model: diffusion model, whose output matrices the errors go through.
        family: where they are.

    Attributes:
        observed: calls that were measured.
        seconds: that took.
    """

    name = "profiling"
    tuner = None
    plan_name = remark = expected = ""

    def __init__(self, profiler: Profiler, model: nn.Module, family: Family):
        self.profiler, self.model, self.family = profiler, model, family
        self.title = f"{family.name}, profiling"
        self.shape = profiler.names["layers"], profiler.names["heads"]
        self.sigma, self.observed, self.seconds = 0.0, 0, 0.0
        self._grams: dict[int, Tensor] = {}
        self._flowing: Tensor | None = None

    @property
    def observer(self) -> ProfilePolicy:
        """Itself."""
        return self

    def begin_step(self, sigma: float) -> Dense | None:
        """Warm-up above the first band, where nothing is measured."""
        self.sigma = sigma
        return fallback.WARM_UP if sigma > self.profiler.bands[0][0] else None

    def try_kernels(self, device: torch.device, dtype: torch.dtype) -> None:
        """Nothing to do: the video stays dense."""

    def prepare(self, grid: TokenGrid, batch: int, device: torch.device) -> None:
        """The profiler keeps its own tables."""

    def take(self, call: Call) -> bool:
        """Whether a call can be measured."""
        return self.refusal(call) is None

    def observe(self, call: Call, sigma: float | None = None) -> None:
        """Measure a call at this noise level, that of the step by default."""
        if call.layer not in self._grams:
            self._grams[call.layer] = head_grams(self.family.output(self.model, call.layer), call.q)
        free = free_memory(call.q.device)
        sigma = self.sigma if sigma is None else sigma
        gram = self._grams[call.layer]
        self._flowing = self.profiler.observe(call.layer, sigma, call.q, call.k, call.v, call.grid, gram, free)
        self.observed += 1

    def spent(self, milliseconds: float) -> None:
        """Counts the time."""
        self.seconds += milliseconds / 1000

    def decide(self, call: Call) -> Computed | Dense:
        """The profiler's output where attention flows on sparse, else the reason for dense."""
        why, flowing, self._flowing = self.refusal(call), self._flowing, None
        if why is not None or flowing is None:
            return why or fallback.PROFILING
        return Computed(flowing.clone(), 1.0, self.name)  # what flows on is the forward's own

    def refusal(self, call: Call) -> Dense | None:
        """Why a call cannot be measured, None when it can."""
        if call.mask is not None:
            return fallback.MASKED
        if not 0 <= call.layer < self.shape[0]:
            return fallback.NO_LAYER
        measured = self.profiler.grid
        if measured is not None and call.grid != measured and call.grid.shape == measured.shape:
            return fallback.OTHER_TEXT
        return None

    def failed(self) -> None:
        """Nothing to do: what was measured counts."""

    def summary(self) -> str:
        """Nothing: the node says it all."""
        return ""

    def advice(self) -> None:
        """Nothing: the reasons say it."""

    def detail(self) -> dict:
        """Nothing: the profile says it all."""
        return {}

    def forget(self) -> None:
        """Drop the output matrices, some 100 MB of a large model; they are made again where they are needed."""
        self._grams.clear()
        self._flowing = None

    def free(self) -> None:
        """Drop the output matrices and the model."""
        self.forget()
        self.model = None


def head_grams(output: Callable[[Tensor], Tensor], q: Tensor) -> Tensor:
    """W_O_h^T W_O_h of every head, (H, D, D) float32, for q (B, S, H, D).

    The identity is pushed through the model's layer, so that LoRAs, quantised and offloaded weights count as they run.
    """
    heads, head_dim = q.shape[2:]
    unit = torch.eye(heads * head_dim, dtype=q.dtype, device=q.device)
    weight = output(unit).float() - output(torch.zeros_like(unit[:1])).float()  # (H*D, dim), less the bias
    weight = weight.unflatten(0, (heads, head_dim))
    return weight @ weight.transpose(1, 2)
