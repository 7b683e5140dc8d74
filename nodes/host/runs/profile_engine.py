"""Profiling: what a run of Profile Heads does with each self-attention call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ....kernels.grid import TokenGrid
from ....plans.profile.profiler import Profiler
from ..families import Family, Layout
from ..reports import reasons
from .engine import NOT_VIEWED, Call
from .free_memory import free_memory
from .injection import Injection
from .run import Run


class ProfileEngine:
    """Shows every self-attention call to the profiler; the video stays dense unless the profiler's flow is not.

    Args:
        profiler: collects the measures.
        model: diffusion model, whose output matrices the errors go through.
        family: where they are.

    Attributes:
        injection: what the calls of an extra forward get in the place of being measured; None in the video's own.
    """

    def __init__(self, profiler: Profiler, model: nn.Module, family: Family):
        self.profiler, self.model, self.family = profiler, model, family
        self.title = f"{family.name}, profiling"
        self.shape = profiler.names["layers"], profiler.names["heads"]
        self.sigma = 0.0
        self.observed = 0
        self.injection: Injection | None = None
        self._grams: dict[int, Tensor] = {}

    def reason(self, sigma: float) -> str | None:
        """Warm-up above the first band, where nothing is measured."""
        self.sigma = sigma
        return reasons.WARM_UP if sigma > self.profiler.bands[0][0] else None

    def try_kernels(self, device: torch.device, dtype: torch.dtype) -> None:
        """Nothing to do: the video stays dense."""

    def prepare(self, layout: Layout, batch: int, device: torch.device) -> None:
        """The profiler keeps its own tables."""

    def dense_timer(self, run: Run, layout: Layout, q: Tensor, masked: bool) -> None:
        """Profiling has no use for it."""

    def attention(self, run: Run, call: Call) -> Tensor | str:
        """The profiler's output where attention flows on sparse, else the reason for dense."""
        why = self.refusal(call)
        if why is not None:
            return why
        if self.injection is not None:
            return self.injection.attention(call)
        stop = run.time(call.q.device, "profiling")
        flowing = self.observe(call, self.sigma)
        out = None if flowing is None else flowing.clone()  # what flows on is the forward's own
        stop()
        if out is None:
            return reasons.PROFILING
        if run.spoiled(call.layer, out, (call.q, call.k, call.v)):
            return reasons.NOT_FINITE
        run.ledger.count_sparse(call.layer, 1.0, "profiling", call.q.device)
        return out

    def refusal(self, call: Call) -> str | None:
        """Why a call cannot be measured, None when it can."""
        if call.mask is not None:
            return reasons.MASKED
        if not 0 <= call.layer < self.shape[0]:
            return reasons.NO_LAYER
        grid, measured = TokenGrid(*call.layout), self.profiler.grid
        if measured is not None and grid != measured and grid.shape == measured.shape:
            return reasons.OTHER_TEXT
        return None

    def gram(self, call: Call) -> Tensor:
        """W_O^T W_O of each head of a call's layer, (H, D, D); made once."""
        if call.layer not in self._grams:
            self._grams[call.layer] = head_grams(self.family.output(self.model, call.layer), call.q)
        return self._grams[call.layer]

    def observe(self, call: Call, sigma: float) -> Tensor | None:
        """Measure a call; the profiler's output where attention flows on sparse."""
        gram = self.gram(call)
        grid, free = TokenGrid(*call.layout), free_memory(call.q.device)
        flowing = self.profiler.observe(call.layer, sigma, call.q, call.k, call.v, grid, gram, free)
        self.observed += 1
        return flowing

    def told(self) -> str:
        """Nothing: the node says it all."""
        return ""

    def detail(self) -> dict:
        """Nothing: the profile says it all."""
        return {}

    def viewed(self) -> dict:
        """Nothing: there is no plan yet."""
        return NOT_VIEWED

    def forget(self) -> None:
        """Drop the output matrices, some 100 MB of a large model; they are made again where they are needed."""
        self._grams.clear()

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
