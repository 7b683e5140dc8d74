"""One sampling run: asks its policy about every call, executes what that decides, counts, times and checks.

Runs lie on a stack of this module, never on a model or in its options: clones share those, compiled code outlives them.
Each thread has its own stack. Where ComfyUI splits the work between GPUs it computes on each in a thread, and each has
its own run; they share the policy.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from ....kernels.attention import KernelFailed
from ....kernels.grid import TokenGrid
from ....kernels.memory import out_of_memory
from ..core import fallback
from ..core.clock import Clock
from ..core.fallback import Dense, of_error, passes_through
from ..core.stats import RunStats
from .block_tracker import BlockTracker
from .call import DENSE, Call, Computed, Own, Policy, Sparse
from .execution import Executor
from .finite_check import FiniteCheck
from .memory import recording_paused, unrecorded
from .text_mask import text_bias

LOG = logging.getLogger("sparse_vdit")
EXTRA_EVENTS = 160  # pairs of events for calls that a tuner wants timed, beside two for each layer


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.runs: list[Run | None] = []


_here = _OfThread()


def current_run() -> Run | None:
    """The run that is sampling now, None outside of sampling and in forwards of other models."""
    return _here.runs[-1] if _here.runs else None


@contextmanager
def as_current(run: Run | None) -> Iterator[None]:
    """Make a run the current one, or none."""
    _here.runs.append(run)
    try:
        yield
    finally:
        _here.runs.pop()


def timing_dense() -> AbstractContextManager:
    """`Run.timing_dense` of the current run; nothing without one, or where code is being compiled."""
    run = None if torch.compiler.is_compiling() else current_run()
    return nullcontext() if run is None or run.wants_dense_time is None else run.timing_dense()


class Run:
    """One sampling run.

    Args:
        policy: decides about calls.
        own: the model's own attention, undecorated, and the override that was there before ours, None if none was.
        clock: what times calls.
        first: the run of the same model's first GPU, whose policy this one shares; None for the first one itself.

    Attributes:
        forward_is_dense: why the forward now running is dense as a whole, None when it is not.
        stopped: why the rest of the run is dense, None while it is not.
        tracker: which block calls attention.
        stats: what is counted.
        check: whether outputs are finite.
        options: transformer_options of the forward now running.
        agree: whether something is so in any of the processes that compute the model together; all of them ask.
    """

    def __init__(
        self, policy: Policy, own: Own | None = None, clock: Clock | None = None, first: Run | None = None
    ):
        self.policy, self.own, self.clock = policy, own, clock or Clock()
        self._first = first
        self._others: list[Run] = []  # no reference to itself: what a run holds is freed at once
        if first is not None:
            first._others.append(self)
        self._lock: AbstractContextManager = threading.RLock() if first is None else first._lock  # around the policy
        self.stats = RunStats()
        self.executor = Executor(self.stats, self.clock, own)
        self.tracker, self.check = BlockTracker(), FiniteCheck()
        self.forward_is_dense: Dense | None = fallback.UNSEEN_FORWARD
        self.stopped: Dense | None = None
        self.options: dict | None = None
        self.agree: Callable[[bool], bool] = bool
        self.device = ""  # in words
        self.watch: object = None  # of `hooks/replaced.py`, which looks at the forwards of this run
        self.wants_dense_time: Callable[[], Callable[[], None] | None] | None = None
        self._spoiled: list[str] = []  # layers and heads, in words
        self._biases: dict = {}  # key biases made of this forward's masks, by mask

    @property
    def together(self) -> list[Run]:
        """Runs of all GPUs, the first one of which shows calls to the policy's observer."""
        first = self._first or self
        return [first, *first._others]

    def begin_step(self, sigma: float) -> None:
        """A forward at this noise level is about to begin."""
        with self.guarded():
            self.forward_is_dense = self.stopped or self.policy.begin_step(sigma)

    def begin_forward(self, device: torch.device, sigma: float | None = None) -> None:
        """Reset counts, and make flags and events before the forward, so that ComfyUI's recorder does not free them."""
        self.stats.begin_forward(sigma)
        self.check.free()
        self.forget_blocks()
        if self.stopped is not None and self.forward_is_dense is not None:
            return
        with self.guarded():
            layers, heads = self.policy.shape
            if self.forward_is_dense is None:
                self.check.begin_forward(layers, heads, device)
            self.clock.reserve(device, 2 * layers + EXTRA_EVENTS)

    def forget_blocks(self) -> None:
        """The forward begins, perhaps again: no block is running, and its masks are not yet made."""
        self.tracker = BlockTracker(last=-1)
        self._biases.clear()

    def begin_again(self) -> None:
        """The forward is repeated: what was counted of it is forgotten."""
        self.stats.rollback()
        self.forget_blocks()

    def go_dense_where_spoiled(self) -> bool:
        """Make the rest of the run dense where a sparse output of the forward that ended was not finite. Returns
        whether the forward is to be repeated; then call `end_repeated`."""
        self._spoiled = self.check.locate() if self.stats.forward.sparse else []
        spoiled = self.agree(bool(self._spoiled))
        if spoiled:
            self.stop(fallback.NOT_FINITE if self._spoiled else fallback.OTHER_RANK)
            self.begin_again()
        return spoiled

    def end_repeated(self) -> None:
        """The forward was repeated dense: say why, or that the model's own numbers were not finite."""
        if self.agree(self.check.inputs_were_bad()):
            self.stats.recount(fallback.NOT_FINITE, fallback.NOT_FINITE_INPUTS)
            self.stop(fallback.NOT_FINITE_INPUTS)
        elif self._spoiled:
            self.stats.failures += [{"what": f"{place}: {fallback.NOT_FINITE}"} for place in self._spoiled]
            again = "this forward was computed again dense, and all that followed ran dense"
            self.stats.note(f"{'; '.join(self._spoiled)}: {fallback.NOT_FINITE}; {again}")
        self.check.free()

    def attend(self, call: Call) -> Tensor | None:
        """Sparse output (B, S, H, D) of a call; None after counting why it has to be dense.

        What ComfyUI records of it (`memory.py`) is the same in every call: the output where it is sparse, nothing where
        it is dense. Biases, timed calls, checks and routing are all in the pause.
        """
        with self._lock:
            return unrecorded(lambda: self._attend(call))

    def _attend(self, call: Call) -> Tensor | None:
        self.wants_dense_time = None
        call.layer = self.tracker.take_layer(call.layer)
        counts = self.stats.forward
        counts.reached[call.layer] += 1
        counts.grids[call.grid] += 1
        out = self._refuse(call) or self._sparse(call)
        if not isinstance(out, Dense):
            return out
        self.stats.count_dense(out, call.layer)
        if self.stopped is None and self.policy.tuner is not None:  # what is dense for good needs no times
            with self.guarded(call.layer):
                self.wants_dense_time = self._dense_timer(call)
        return None

    def _refuse(self, call: Call) -> Dense | None:
        """Why a call has to be dense, None where nothing is known against it."""
        if captured(call.q.device):
            return fallback.CAPTURED
        why = self.tracker.enter(call.layer) if self.forward_is_dense is None else self.forward_is_dense
        if why is fallback.NOT_FINITE and self.check.flags is not None and call.layer is not None:
            self.check.look_at_inputs(call.layer, (call.q, call.k, call.v))
        return why

    def _sparse(self, call: Call) -> Tensor | Dense:
        """What becomes of a call of a known layer: its sparse output, or why it has to be dense."""
        if call.mask is not None:
            with self.guarded(call.layer):
                bias = text_bias(self._biases, call.mask, call.grid, call.q.shape[0])
                if isinstance(bias, Dense):
                    return bias
                call.key_bias = bias
            if self.stopped is not None:
                return self.stopped
        observer = self.policy.observer if self._first is None else None
        if observer is not None and observer.take(call):
            stop = self.executor.time(call.q.device, observer.name, observer.spent)
            observer.observe(call)
            stop()
        return self._decided(call)

    def _decided(self, call: Call) -> Tensor | Dense:
        """What the policy wants; an error in it makes the rest of the run dense, and never ends the sampling."""
        try:
            out = decision = call.decided or self.policy.decide(call)
            if isinstance(decision, Sparse):
                out = self.executor.execute(call, decision)
            elif isinstance(decision, Computed):
                self.stats.count_sparse(call.layer, decision.density, decision.by, call.q.device)
                out = decision.out
            if not isinstance(out, Dense):
                self.check.look_at(call.layer, out, call.heads)
            return out
        except Exception as error:
            if passes_through(error):
                raise
            LOG.warning("Sparse-vDiT: sparse attention failed", exc_info=True)
            failure = error.__cause__ if isinstance(error, KernelFailed) else error
            failure = failure.with_traceback(None)  # whose frames would keep the call's tensors
        why = self._failed(call.layer, failure)
        if out_of_memory(failure) and call.q.device.type == "cuda":
            torch.cuda.empty_cache()  # so that the model's own attention finds room
        return why

    def _dense_timer(self, call: Call) -> Callable[[], Callable[[], None] | None]:
        """Begins to time the model's own attention for a call that was refused, and gives what ends that; None where no
        more times are wanted. It holds no tensor."""
        tuner, device = self.policy.tuner, call.q.device
        place = tuner.place(call.grid, call.q, call.mask is not None, self.own)

        def start() -> Callable[[], None] | None:
            if not self.clock.ready(device) or not tuner.begin_timing(place, DENSE):
                return None
            return self.executor.time(device, DENSE, tuner.measured(place, DENSE))

        return start

    @contextmanager
    def timing_dense(self) -> Iterator[None]:
        """Around the model's own attention for the call that `attend` has just refused: times it where that is of
        use."""
        start, self.wants_dense_time = self.wants_dense_time, None
        stop = None
        with self.guarded():
            stop = start()
        yield
        if stop is not None:
            with self.guarded():
                stop()

    def call_options(self, written: dict) -> dict | None:
        """transformer_options of the call that compiled code now makes, as the model's forward gave them; None outside
        of forwards.

        Args:
            written: what the code itself says the model has written there. Blocks compiled alone share code, which
                says it of the first one: what counts there is the dict that plain Python between the blocks writes to.
        """
        if self.tracker.numbered:
            return self.tracker.options
        return None if self.options is None else {**self.options, **written}

    def try_kernels(self, target: Callable[[], tuple[torch.device, torch.dtype]]) -> None:
        """Test, before the first forward, which kernels can be trusted on the target's device and in its dtype. Where
        that fails, the first call does it."""
        try:
            self.policy.try_kernels(*target())
        except Exception as error:
            if passes_through(error):
                raise
            LOG.debug("Sparse-vDiT: kernels were not tested before sampling", exc_info=True)

    def prepare(self, grid: TokenGrid, batch: int, device: torch.device) -> None:
        """Build what a forward needs; an error in it makes the rest of the run dense."""
        with self.guarded():
            self.policy.prepare(grid, batch, device)

    @contextmanager
    def guarded(self, layer: int | None = None) -> Iterator[None]:
        """Around work of the pack: an error in it makes the rest of the run dense, and never ends the sampling."""
        with self._lock:
            try:
                yield
            except Exception as error:
                if passes_through(error):
                    raise
                LOG.warning("Sparse-vDiT: sparse attention could not be prepared", exc_info=True)
                self._failed(layer, error)

    def _failed(self, layer: int | None, error: Exception) -> Dense:
        """The rest of the run is dense, as a kernel that failed once would fail in every step; returns why."""
        why, text = of_error(error)
        self.stats.failures.append({"what": text, "layer": layer})
        where = "" if layer is None else f"layer {layer}: "
        self.stats.note(f"{where}{text}; all that followed ran dense")
        self.stop(why)
        with recording_paused():  # as what the policy holds was not recorded
            self.policy.failed()
            if why == fallback.OUT_OF_MEMORY:
                self.policy.free()
        return why

    def stop(self, why: Dense) -> None:
        """Everything from here on is dense, on other GPUs from their next forward on."""
        self.forward_is_dense = why
        for run in self.together:
            run.stopped = why

    def collect(self) -> None:
        """Wait for all times, of every GPU."""
        for run in self.together:
            run.clock.collect(wait=True)

    def free(self) -> None:
        """Drop everything that holds memory, on every GPU. May be called more than once. After an error on one GPU
        another one may still compute: what is left of its forward is dense."""
        with self._lock:
            for run in self.together:
                run.forward_is_dense = fallback.UNSEEN_FORWARD
                run.options = run.wants_dense_time = None
                run.check.free()
                run._biases.clear()
                run.clock.free()
            self.policy.free()


def captured(device: torch.device) -> bool:
    """Whether calls on a device are now recorded as a CUDA graph, whose replays will not ask the pack."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
