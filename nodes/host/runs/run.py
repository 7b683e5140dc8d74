"""The state of one sampling run: what was decided, what ran, what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ....kernels.memory import out_of_memory
from ..attention.at_work import AtWork
from ..attention.replaced import Watch
from ..attention.text_mask import text_bias
from ..families import Layout
from ..reports import reasons
from ..reports.ledger import Ledger
from ..speed.clock import Clock
from .engine import Call, DenseTimer, Engine
from .failures import failure_text, passes_through
from .output_check import OutputCheck
from .recording import recording_paused

EVENTS_BESIDE = 160  # pairs of events for the calls of a race, beside one for each layer


@dataclass
class Run:
    """One sampling run.

    Attributes:
        function: the model's own attention, undecorated; what compiled code falls back to.
        chained: the override that was there before ours, None if there was none.
        reason: why the forward now running is dense as a whole, None when it is not.
        options: transformer_options of the forward now running.
        biases: key biases made of this forward's masks, by mask.
        refusal: why the run is dense as a whole, before it began.
        stopped: why the rest of the run is dense, None while it is not.
        compiled: whether the model is compiled.
        at_work: which block calls attention.
        watch: looks out for attention that other nodes put in the pack's place.
        ledger: what is counted.
        check: whether outputs are finite.
    """

    engine: Engine | None
    function: Callable | None
    chained: Callable | None = None
    reason: str | None = reasons.UNSEEN_FORWARD
    options: dict | None = None
    biases: dict = field(default_factory=dict, repr=False)
    refusal: str | None = None
    stopped: str | None = None
    compiled: bool = False
    at_work: AtWork = field(default_factory=AtWork)
    watch: Watch | None = None
    clock: Clock = field(default_factory=Clock)
    ledger: Ledger = field(default_factory=Ledger)
    check: OutputCheck = field(init=False, repr=False)
    _dense_timer: DenseTimer | None = field(default=None, repr=False)
    _mark: dict | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.check = OutputCheck(self.ledger)

    def attend(self, call: Call) -> Tensor | None:
        """Sparse output (B, S, H, D) of a call; None after counting why it has to be dense.

        What ComfyUI records of it (`recording.py`) is the same in every call: the output where it is sparse, nothing
        where it is dense. Biases, timed calls, repeated ones, checks and routing are all in the pause.
        """
        with recording_paused() as recorded:
            made = self._attend(call)
        if made is None or not recorded:
            return made
        # the model frees the output while recording, so that it has to be allocated so too
        out = torch.empty(made.shape, dtype=made.dtype, device=made.device)
        with recording_paused():
            out.copy_(made)
            del made  # still in the pause, as it was allocated in one
        return out

    def _attend(self, call: Call) -> Tensor | None:
        self._dense_timer = None
        call = replace(call, layer=self.at_work.take_layer(call.layer))
        self.ledger.reached[call.layer] += 1
        self.ledger.layouts[call.layout] += 1
        out = self._refusal(call) or self._sparse(call)
        if not isinstance(out, str):
            return out
        self.ledger.count_dense(out, call.layer)
        if self.stopped is None:  # what is dense for good needs no times
            with self._guarded():
                self._dense_timer = self.engine.dense_timer(self, call.layout, call.q, call.mask is not None)
        return None

    def _refusal(self, call: Call) -> str | None:
        """Why a call has to be dense, None where nothing is known against it."""
        reason = reasons.CAPTURED if captured(call.q.device) else self.reason or self.at_work.refusal(call.layer)
        if reason is None and call.layer in self.check.dense_layers:
            self.check.look_at(call.layer, (call.q, call.k, call.v))
            return reasons.NOT_FINITE
        return reason

    def _sparse(self, call: Call) -> Tensor | str:
        """What the engine makes of a call and the key bias of its mask, or why the call has to be dense."""
        key_bias = None
        if call.mask is not None:
            with self._guarded(call.layer):
                key_bias = text_bias(self.biases, call.mask, call.layout, call.q.shape[0])
            key_bias = self.stopped if key_bias is None else key_bias
        return key_bias if isinstance(key_bias, str) else self.engine.attention(self, replace(call, key_bias=key_bias))

    def call_options(self, written: dict) -> dict | None:
        """transformer_options of the call that compiled code now makes, as the model's forward gave them; None outside
        of forwards.

        Args:
            written: what the code itself says the model has written there. Blocks compiled alone share code, which
                says it of the first one: what counts there is the dict that plain Python between the blocks writes to.
        """
        if self.at_work.numbered:
            return self.at_work.options
        return None if self.options is None else {**self.options, **written}

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

    def time(self, device: torch.device, what: str, done: Callable[[float], None] | None = None) -> Callable[[], None]:
        """Begin to time a call; call the result at its end. `what` is a name of `race.py`; sparse calls count in
        `Ledger.seconds` where nothing else takes the milliseconds."""

        def add(milliseconds: float) -> None:
            self.ledger.milliseconds[what] += milliseconds
            if done is None:
                self.ledger.seconds += milliseconds / 1000
            else:
                done(milliseconds)

        return self.clock.start(device, what, add)

    def try_kernels(self, patcher: object) -> None:
        """Let the engine find out, before the first forward, which kernels can be trusted for a MODEL."""
        with self._guarded():
            # as other nodes patched it: the model is not loaded yet, and does not know
            cast = patcher.get_model_object("manual_cast_dtype")
            self.engine.try_kernels(patcher.load_device, cast or patcher.model.get_dtype())

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
                with recording_paused():  # as what it holds was not recorded
                    self.engine.free()

    def begin_forward(self, device: torch.device, sigma: float | None = None) -> None:
        """Make what outlives the forward that begins, outside of it, and remember where it began."""
        self.check.begin_forward()
        self.forget_blocks()
        self.ledger.begin_forward(sigma)
        self._mark = self.ledger.mark()
        if self.engine is None or self.stopped is not None:
            return
        with self._guarded():
            layers, heads = self.engine.shape
            if self.reason is None:
                self.check.reserve(layers, heads, device)
            self.clock.reserve(device, 2 * layers + EVENTS_BESIDE)

    def forget_blocks(self) -> None:
        """The forward begins, perhaps again: no block is at work, and its masks are not yet made."""
        self.at_work.begin_forward()
        self.biases.clear()

    def spoiled(self, layer: int, out: Tensor, inputs: tuple[Tensor, ...] = ()) -> bool:
        """`OutputCheck.spoiled`; after too many of them the rest of the run is dense."""
        spoiled = self.check.spoiled(layer, out, inputs)
        self._stop_where_often_spoiled()
        return spoiled

    def must_repeat(self) -> bool:
        """Whether a sparse output of the forward that ended was not finite: its calls are then taken back, and the
        first layer with such an output is dense when the forward is repeated."""
        if self._mark is None or (self.ledger.sparse == self._mark["sparse"] and self.check.suspect is None):
            return False
        suspect = self.check.next_suspect()
        self._stop_where_often_spoiled()
        if suspect is None:
            return False
        dense_layers = {*self.check.dense_layers, suspect[0]}
        self.begin_again(self.check.flags.device)
        self.check.dense_layers, self.check.suspect = dense_layers, suspect
        return True

    def begin_again(self, device: torch.device) -> None:
        """The forward is repeated: what was counted of it is taken back."""
        sigma = self.ledger.forwards[-1]["sigma"]
        self.ledger.back_to(self._mark)
        self.begin_forward(device, sigma)

    def _stop_where_often_spoiled(self) -> None:
        if self.check.too_often():
            self.stop(reasons.OFTEN_NOT_FINITE)

    def kernel_failed(self, layer: int | None, error: Exception) -> str:
        """The rest of the run is dense, as a kernel that failed once would fail in every step; returns the reason."""
        reason, text = failure_text(error)
        self.ledger.failures.append({"what": text, "layer": layer})
        where = "" if layer is None else f"layer {layer}: "
        self.ledger.note(f"{where}{text}; all that followed ran dense")
        self.stop(reason)
        return reason

    def stop(self, reason: str) -> None:
        """Everything from here on is dense."""
        self.stopped = self.reason = reason

    def replaced(self) -> str | None:
        """Who took attention away, None where nobody did or the pack itself refused calls for what they are: blocks
        that cannot be told apart are missing among the layers without anybody's doing."""
        reached = self.ledger.reached
        if self.ledger.calls() > reached.total() or not reasons.BLOCKS_UNKNOWN.isdisjoint(self.ledger.dense):
            return None
        return self.watch.verdict(len(reached.keys() - {None}), self.ledger.sparse)

    def read_clocks(self) -> None:
        """Take the CUDA times that are still to come. Waits for the device."""
        self.clock.collect(wait=True)

    def free(self) -> None:
        """Drop everything that holds memory. May be called more than once."""
        self.options = self.check.flags = None
        self.biases.clear()
        self.clock.free()
        if self.engine is not None:
            self.engine.free()

    def report(self) -> str:
        """The line that says what ran."""
        if self.refusal is not None:
            return "; ".join([f"Sparse-vDiT: everything runs dense: {self.refusal}", *self.ledger.notes])
        return self.ledger.line("") if self.engine is None else self.ledger.line(self.engine.title, self.engine.told())

    def detail(self) -> dict:
        """All that is known of the run, for JSON."""
        engine = {} if self.engine is None else self.engine.detail()
        said = {"report": self.report(), "refusal": self.refusal, "stopped": self.stopped}
        return {**said, **engine, **self.ledger.detail()}


def captured(device: torch.device) -> bool:
    """Whether calls on a device are now recorded as a CUDA graph, whose replays will not ask the pack."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
