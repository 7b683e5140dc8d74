"""The state of one sampling run: what was decided, what ran, and the line that says so.

Runs lie on a stack of this module, never on a model or in its options: clones share those, compiled code outlives them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from . import reasons
from .families import Layout
from .replaced import Watch
from .text_mask import text_bias


class Engine(Protocol):
    """What a run does with a self-attention call: attention by plan, or profiling."""

    def reason(self, sigma: float) -> str | None:
        """Why a forward at this noise level stays dense, None when it does not. Called once per forward."""

    def prepare(self, layout: Layout, batch: int, device: torch.device) -> None:
        """Build what depends on the token layout and the batch, before the first block."""

    def attention(
        self, run: Run, layer: int, layout: Layout, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None = None
    ) -> Tensor | str:
        """Output for q, k, v (B, S, H, D), or the reason to compute it dense. `key_bias` is that of `AttentionCall`."""

    def free(self) -> None:
        """Drop every tensor."""


@dataclass
class Run:
    """One sampling run.

    Attributes:
        function: the model's own attention, undecorated; what compiled code falls back to.
        chained: the override that was there before ours, None if there was none.
        reason: why the forward now running is dense as a whole, None when it is not.
        options: transformer_options of the forward now running.
        numbered: whether plain Python says which block is at work; not where the model is compiled whole.
        layer: number of the block at work, None outside of blocks.
        count: attention calls of this forward where blocks are counted, else None.
        last_layer: the block that attended last in this forward, -1 before the first, None where no forward was begun.
        biases: key biases made of this forward's masks, by mask; the masks are kept so that none takes another's place.
        refusal: why the run is dense as a whole, before it began.
        unfinished: flag tensor, True once a sparse output of this forward was not finite.
        spoiled: whether such an output was seen; the rest of the run is dense.
        compiled: whether the model is compiled.
        layers: numbers of the blocks whose self-attention came here.
        attended: calls of `attend`.
        watch: looks out for attention that other nodes put in the pack's place.
    """

    engine: Engine | None
    function: Callable | None
    chained: Callable | None = None
    reason: str | None = reasons.UNSEEN_FORWARD
    options: dict | None = None
    numbered: bool = False
    layer: int | None = None
    count: int | None = None
    last_layer: int | None = None
    biases: dict = field(default_factory=dict, repr=False)
    refusal: str | None = None
    sparse: int = 0
    dense: Counter = field(default_factory=Counter)
    density_sum: float = 0.0
    backend: str | None = None
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    unfinished: Tensor | None = None
    spoiled: bool = False
    compiled: bool = False
    layers: set[int] = field(default_factory=set)
    attended: int = 0
    watch: Watch | None = None
    _events: list = field(default_factory=list, repr=False)

    def begin_blocks(self, counted: bool) -> None:
        """The model's forward begins, and plain Python will say which block is at work."""
        self.numbered, self.layer, self.count, self.last_layer = True, None, 0 if counted else None, -1

    def take_layer(self) -> int | None:
        """Number of the block whose attention is called, None outside of blocks; counts the call where that is how."""
        if self.count is None:
            return self.layer
        self.count += 1
        return self.count - 1

    def attend(
        self, layer: int | None, layout: Layout, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor | None:
        """Sparse output (B, S, H, D) for q, k, v (B, S, H, D); None after counting why it has to be dense."""
        self.attended += 1
        if layer is not None:
            self.layers.add(layer)
        out = self.reason or self._block_reason(layer)
        if out is None:
            key_bias = None if mask is None else text_bias(self.biases, mask, layout, q.shape[0])
            if isinstance(key_bias, str):
                out = key_bias
            else:
                out = self.engine.attention(self, layer, layout, q, k, v, key_bias)
        if isinstance(out, str):
            self.dense[out] += 1
            return None
        return out

    def _block_reason(self, layer: int | None) -> str | None:
        """Each block attends once and in order; anything else means that the number is not to be trusted."""
        if layer is None:
            return reasons.NO_LAYER
        if self.last_layer is not None:
            if layer <= self.last_layer:
                return reasons.BLOCK_ORDER
            self.last_layer = layer
        return None

    def note(self, text: str) -> None:
        """Remember something that the report must say, once."""
        if text not in self.notes:
            self.notes.append(text)

    def count_sparse(self, out: Tensor, density: float, backend: str) -> None:
        """Count a sparse call and flag its output."""
        self.sparse += 1
        self.density_sum += density
        self.backend = backend
        self.flag(out)

    def flag(self, out: Tensor) -> None:
        """Remember whether an output is not finite, without waiting for the device."""
        # one number instead of a mask as large as the output: a sum keeps every infinity and NaN
        bad = ~torch.isfinite(out.sum(dtype=torch.float32))
        if self.unfinished is None or self.unfinished.device != bad.device:
            self.unfinished = bad if self.unfinished is None else self.unfinished.to(bad.device) | bad
        else:
            self.unfinished |= bad  # in place: it was made before the forward, which may be recorded

    def discard_since(self, sparse: int, density_sum: float) -> None:
        """Take back the sparse calls of a forward whose result is thrown away."""
        self.sparse, self.density_sum = sparse, density_sum

    def calls(self) -> int:
        """Self-attention calls that reached the pack so far."""
        return self.sparse + self.dense_reasons().total()

    def begin_forward(self, device: torch.device) -> None:
        """Make what outlives the forward that begins, outside of it."""
        self.numbered, self.layer, self.count, self.last_layer = False, None, None, -1
        self.biases.clear()
        self.unfinished = torch.zeros((), dtype=torch.bool, device=device)

    def take_unfinished(self) -> bool:
        """Whether a sparse output since the last call was not finite. Waits for the device once."""
        bad, self.unfinished = self.unfinished, None
        return bad is not None and bool(bad)

    def clock(self, device: torch.device) -> Callable[[], None]:
        """Start timing attention; call the result at its end. CUDA times are read when the run is over."""
        if device.type != "cuda":
            start = time.perf_counter()
            return lambda: self._add_seconds(time.perf_counter() - start)
        with torch.cuda.device(device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()

        def stop() -> None:  # only a finished pair is kept: after an error in between there is no end to read
            end.record(torch.cuda.current_stream(device))
            self._events.append((start, end))

        return stop

    def _add_seconds(self, seconds: float) -> None:
        self.seconds += seconds

    def read_clocks(self) -> None:
        """Add up the CUDA times taken so far."""
        for start, end in self._events:
            end.synchronize()
            self.seconds += start.elapsed_time(end) / 1000
        self._events.clear()

    def free(self) -> None:
        """Drop everything that holds memory. May be called more than once."""
        self.options = self.unfinished = None
        self.biases.clear()
        self._events.clear()
        if self.engine is not None:
            self.engine.free()

    def dense_reasons(self) -> Counter:
        """Reasons of the dense self-attention calls."""
        return Counter({name: n for name, n in self.dense.items() if name not in reasons.NOT_SELF_ATTENTION})

    def report(self) -> str:
        """The line that says what ran."""
        if self.refusal is not None:
            return "; ".join([f"Sparse-vDiT: everything runs dense: {self.refusal}", *self.notes])
        dense = self.dense_reasons()
        why = ", ".join(f"{name} {count}" for name, count in dense.most_common())
        text = f"Sparse-vDiT: {self.sparse} sparse / {dense.total()} dense calls" + (f" ({why})" if why else "")
        if self.sparse:
            text += f", mean density {self.density_sum / self.sparse:.2f}, backend {self.backend}"
            text += f", {1000 * self.seconds:.0f} ms in sparse attention"
        return "; ".join([text, *self.notes])


_stack: list[Run] = []


def current_run() -> Run | None:
    """The run that is sampling now, None outside of sampling."""
    return _stack[-1] if _stack else None


def push_run(run: Run) -> None:
    """Make a run the current one."""
    _stack.append(run)


def pop_run(run: Run) -> None:
    """Take a run off; nothing happens when it is off already."""
    if run in _stack:
        _stack.remove(run)
