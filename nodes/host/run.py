"""The state of one sampling run: what was decided, what ran, what went wrong, and the line that says so.

Runs lie on a stack of this module, never on a model or in its options: clones share those, compiled code outlives them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import reasons
from .at_work import AtWork
from .clock import Clock
from .engine import DenseTimer, Engine
from .failures import failure_text, out_of_memory, passes_through
from .families import Layout
from .ledger import Ledger, mend
from .replaced import Watch
from .text_mask import text_bias

MOST_FAILURES = 3  # outputs that were not finite, after which a run goes on dense
NOT_OURS = "q, k or v of the model were not finite before sparse attention, which then cannot be either"
EVENTS_BESIDE = 160  # pairs of events for the calls of a race, beside one for each layer


@dataclass
class Run:
    """One sampling run.

    Attributes:
        function: the model's own attention, undecorated; what compiled code falls back to.
        chained: the override that was there before ours, None if there was none.
        reason: why the forward now running is dense as a whole, None when it is not.
        options: transformer_options of the forward now running.
        biases: key biases made of this forward's masks, by mask; the masks are kept so that none takes another's place.
        refusal: why the run is dense as a whole, before it began.
        stopped: why the rest of the run is dense, None while it is not.
        flags: bool (layers, heads + 1) on the device, True where a sparse output of this forward was not finite, in
            the last column where q, k or v were not before; None where outputs are checked at once.
        dense_layers: layers that are dense in the forward now running, because it is repeated for them.
        compiled: whether the model is compiled.
        at_work: which block calls attention.
        layers: numbers of the blocks whose self-attention came here.
        attended: calls of `attend`.
        watch: looks out for attention that other nodes put in the pack's place.
        seconds: in sparse attention.
    """

    engine: Engine | None
    function: Callable | None
    chained: Callable | None = None
    reason: str | None = reasons.UNSEEN_FORWARD
    options: dict | None = None
    biases: dict = field(default_factory=dict, repr=False)
    refusal: str | None = None
    sparse: int = 0
    dense: Counter = field(default_factory=Counter)
    density_sum: float = 0.0
    backend: str | None = None
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str | None = None
    flags: Tensor | None = None
    dense_layers: set[int] = field(default_factory=set)
    compiled: bool = False
    at_work: AtWork = field(default_factory=AtWork)
    layers: set[int] = field(default_factory=set)
    attended: int = 0
    watch: Watch | None = None
    clock: Clock = field(default_factory=Clock)
    ledger: Ledger = field(default_factory=Ledger)
    _failures: int = 0
    _dense_timer: DenseTimer | None = field(default=None, repr=False)
    _mark: tuple | None = field(default=None, repr=False)

    def attend(
        self,
        layer: int | None,
        layout: Layout,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        *,
        again: Callable[[], object] | None = None,
    ) -> Tensor | None:
        """Sparse output (B, S, H, D) for q, k, v (B, S, H, D); None after counting why it has to be dense.

        Args:
            layer: number of the block that calls, None where it is unknown.
            mask: that `text_mask.is_key_mask` said to be one of keys.
            again: computes the same call the model's own way, and may be called for timing.
        """
        self._dense_timer = None
        self.attended += 1
        if layer is not None:
            self.layers.add(layer)
        out = self.reason or self.at_work.refusal(layer)
        out = out or (reasons.NOT_FINITE if layer in self.dense_layers else None)
        if out is None:
            out = key_bias = self._key_bias(layer, layout, mask, q.shape[0])
            if not isinstance(key_bias, str):
                out = self.engine.attention(self, layer, layout, q, k, v, key_bias, again=again)
        dense_reason = out if isinstance(out, str) else None
        self.ledger.layouts[layout] += 1
        if dense_reason is not None:
            self.refused(dense_reason, layer)
            if self.stopped is None:  # what is dense for good needs no times
                with self._guarded():
                    self._dense_timer = self.engine.dense_timer(self, layout, q, mask is not None)
            return None
        self.ledger.count(layer, None)
        return out

    def refused(self, reason: str, layer: int | None = None) -> None:
        """Count a call that is dense, of a layer that may be unknown."""
        self.dense[reason] += 1
        self.ledger.count(layer, reason)

    def _key_bias(self, layer: int, layout: Layout, mask: Tensor | None, batch: int) -> Tensor | str | None:
        """Key bias of a mask, None without a mask; or why the call has to be dense."""
        if mask is None:
            return None
        with self._guarded(layer):
            return text_bias(self.biases, mask, layout, batch)
        return self.reason  # which the error gave

    @contextmanager
    def timing_dense(self) -> Iterator[None]:
        """Around the model's own attention for the call that `attend` has just refused: times it where that is of
        use. Around any other call it does nothing."""
        start, self._dense_timer = self._dense_timer, None
        stop = None
        if start is not None:
            with self._guarded():
                stop = start()
        yield
        if stop is not None:
            with self._guarded():
                stop()

    def note(self, text: str) -> None:
        """Remember something that the report must say, once."""
        if text not in self.notes:
            self.notes.append(text)

    def count_sparse(self, density: float, backend: str, device: torch.device) -> None:
        """Count a sparse call."""
        self.sparse += 1
        self.density_sum += density
        self.backend = backend
        self.ledger.backends[backend] += 1
        self.ledger.devices[str(device)] += 1

    def time(self, device: torch.device, what: str, done: Callable[[float], None] | None = None) -> Callable[[], None]:
        """Begin to time a call; call the result at its end. `what` is a name of `race.py`; sparse calls count in
        `seconds` where nothing else takes the milliseconds."""

        def add(milliseconds: float) -> None:
            self.ledger.milliseconds[what] += milliseconds
            if done is None:
                self.seconds += milliseconds / 1000
            else:
                done(milliseconds)

        return self.clock.start(device, what, add)

    def prepare(self, layout: Layout, batch: int, device: torch.device) -> None:
        """Let the engine build what a forward needs; an error in it makes the rest of the run dense."""
        with self._guarded():
            self.engine.prepare(layout, batch, device)

    @contextmanager
    def _guarded(self, layer: int | None = None) -> Iterator[None]:
        """Around the pack's own work: an error in it makes the rest of the run dense, and never ends the sampling."""
        try:
            yield
        except Exception as error:
            if passes_through(error):
                raise
            self.kernel_failed(layer, error)
            if out_of_memory(error):
                self.engine.free()

    def begin_forward(self, device: torch.device, sigma: float | None = None) -> None:
        """Make what outlives the forward that begins, outside of it, and remember where it began."""
        self.dense_layers.clear()
        self.forget_blocks()
        self.ledger.begin_forward(sigma)
        self._mark = (self.ledger.mark(), self.sparse, self.dense.copy(), self.density_sum, self.attended)
        self.flags = None
        if self.engine is None or self.stopped is not None:
            return
        with self._guarded():
            if self.reason is None and not checks_at_once(device):
                layers, heads = self.engine.shape
                self.flags = torch.zeros(layers, heads + 1, dtype=torch.bool, device=device)
            self.clock.reserve(device, 2 * self.engine.shape[0] + EVENTS_BESIDE)

    def forget_blocks(self) -> None:
        """The forward begins, perhaps again: no block is at work, and its masks are not yet made."""
        self.at_work.begin_forward()
        self.biases.clear()

    def spoiled(self, layer: int, out: Tensor, inputs: tuple[Tensor, ...] = ()) -> bool:
        """Whether an output (B, S, H, D) is known not to be finite, which is then a failure of its layer and heads. On
        a GPU it is only flagged, and `must_repeat` tells when the forward is over.

        Args:
            inputs: q, k and v; where they are not finite already, the output is none of the pack's doing, and dense
                attention would give no better one.
        """
        # a sum keeps every infinity and NaN, and makes no mask as large as the output. The softmax normaliser, which
        # kernels have anyway, would not show what is not finite in v.
        bad = ~torch.isfinite(out.sum((0, 1, 3), dtype=torch.float32))
        if self.flags is not None:
            self.flags[layer, :-1] |= bad.to(self.flags.device)  # in place: it was made before the forward
            for x in inputs:
                self.flags[layer, -1] |= not_finite(x).to(self.flags.device)
            return False
        if not checks_at_once(out.device) or not bool(bad.any()):
            return False
        if any(bool(not_finite(x)) for x in inputs):
            self.note(NOT_OURS)
            return False
        self._not_finite(layer, bad)
        return True

    def must_repeat(self) -> bool:
        """Whether a sparse output of the forward that ended was not finite: its calls are then taken back, and the
        first layer with such an output is dense when the forward is repeated; not where its q, k or v were not finite
        before. Waits for the device once."""
        if self.flags is None or self._mark is None or self.sparse == self._mark[1]:
            return False
        flags = self.flags.cpu()
        if not bool(flags[:, :-1].any()):
            return False
        layer = int(flags[:, :-1].any(1).nonzero()[0])  # later layers may be bad because this one was
        if bool(flags[layer, -1]):
            self.note(NOT_OURS)
            return False
        device, sigma = self.flags.device, self.ledger.forwards[-1]["sigma"]
        bad, dense_layers = flags[layer, :-1], {*self.dense_layers, layer}
        mark, self.sparse, dense, self.density_sum, self.attended = self._mark
        self.dense.clear()
        self.dense.update(dense)
        self.ledger.back_to(mark)
        self._not_finite(layer, bad)
        self.begin_forward(device, sigma)
        self.dense_layers = dense_layers
        return True

    def _not_finite(self, layer: int, bad: Tensor) -> None:
        """Count a failure of a layer's heads."""
        heads = ", ".join(str(head) for head in bad.nonzero().flatten().tolist())
        text = f"layer {layer}, head {heads}: sparse output was not finite and was computed again dense"
        self._failures += 1
        self.ledger.failures.append({"what": text})
        self.note(text)
        if self._failures >= MOST_FAILURES:
            self.stop(reasons.OFTEN_NOT_FINITE)

    def kernel_failed(self, layer: int | None, error: Exception) -> str:
        """The rest of the run is dense, as a kernel that failed once would fail in every step; returns the reason."""
        reason, text = failure_text(error)
        self.ledger.failures.append({"what": text, "layer": layer})
        where = "" if layer is None else f"layer {layer}: "
        self.note(f"{where}{text}; all that followed ran dense")
        self.stop(reason)
        return reason

    def stop(self, reason: str) -> None:
        """Everything from here on is dense."""
        self.stopped = self.reason = reason

    def calls(self) -> int:
        """Self-attention calls that reached the pack so far."""
        return self.sparse + self.dense_reasons().total()

    def replaced(self) -> str | None:
        """Who took attention away, None where nobody did or the pack itself refused calls for what they are: blocks
        that cannot be told apart are missing among `layers` without anybody's doing."""
        if self.calls() > self.attended or not reasons.BLOCKS_UNKNOWN.isdisjoint(self.dense):
            return None
        return self.watch.verdict(len(self.layers), self.sparse)

    def read_clocks(self) -> None:
        """Take the CUDA times that are still to come. Waits for the device."""
        self.clock.collect(wait=True)

    def free(self) -> None:
        """Drop everything that holds memory. May be called more than once."""
        self.options = self.flags = None
        self.biases.clear()
        self.clock.free()
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
        what = ", ".join(filter(None, (getattr(self.engine, "title", ""), self.ledger.grids())))
        text = "Sparse-vDiT: " + (f"{what}: " if what else "")
        text += f"{self.sparse} sparse / {dense.total()} dense calls" + (f" ({why})" if why else "")
        if self.sparse:
            text += f", mean density {self.density_sum / self.sparse:.2f}, backend {self.backend}"
            text += f", {1000 * self.seconds:.0f} ms in sparse attention"
        else:
            text += f"; nothing ran sparse: {mend(dense)}"
        return "; ".join([text, *self.notes])

    def detail(self) -> dict:
        """All that is known of the run, for JSON."""
        dense = dict(self.dense)
        counts = {"refusal": self.refusal, "stopped": self.stopped, "sparse": self.sparse, "dense": dense}
        density = self.density_sum / self.sparse if self.sparse else None
        engine = {} if self.engine is None else self.engine.detail()
        return {"report": self.report(), **counts, "mean_density": density, **engine, **self.ledger.detail()}


def not_finite(x: Tensor) -> Tensor:
    """Whether there is a number in x that is not finite, as one bool on its device."""
    return ~torch.isfinite(x.sum(dtype=torch.float32))  # makes no mask as large as x


def checks_at_once(device: torch.device) -> bool:
    """Whether it costs nothing to look at a number on a device at once. Elsewhere that would hold up every layer: there
    flags are read once per forward, which is repeated if one is set."""
    return device.type == "cpu"


_stack: list[Run] = []


def current_run() -> Run | None:
    """The run that is sampling now, None outside of sampling."""
    return _stack[-1] if _stack else None


def timing_dense() -> AbstractContextManager:
    """`Run.timing_dense` of the current run; nothing without one, or where code is being compiled."""
    run = None if torch.compiler.is_compiling() else current_run()
    return nullcontext() if run is None else run.timing_dense()


def push_run(run: Run) -> None:
    """Make a run the current one."""
    _stack.append(run)


def pop_run(run: Run) -> None:
    """Take a run off; nothing happens when it is off already."""
    if run in _stack:
        _stack.remove(run)
