"""Executes sparse calls: by the backend that can, by the kernel that is the fastest, timed, and checked once for each
kind of calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ....kernels.attention import AUTO, BACKENDS, KernelFailed, bar, keep_tables, refusal, run_call, with_fallback
from ....kernels.call import AttentionCall
from ....kernels.configs import DTYPES
from ....kernels.memory import out_of_memory
from ....kernels.routing import routed_call
from ....kernels.spot_check import spot_check
from ..core import fallback
from ..core.clock import Clock
from ..core.fallback import Dense, passes_through
from ..core.stats import RunStats
from .call import DENSE, EXACT, INT8, KERNELS, Call, Own, Sparse
from .memory import pause_again

TIMED_ON = ("cuda", "cpu")  # devices whose calls `Clock` times
NOT_TIMED = "some calls could not be timed, and ran sparse without knowing whether that is faster"


@dataclass(frozen=True)
class Way:
    """How calls of a kind are computed from now on.

    Attributes:
        backend: its name.
        kernel: its name, or DENSE.
        label: the backend in reports, with why faster ones were passed over.
        place: of the tuner, None without one.
    """

    backend: str
    kernel: str
    label: str
    place: object = None


class Executor:
    """Executes the sparse calls of one run.

    Args:
        stats: where calls are counted.
        clock: what times them.
        own: stands for the model's own attention in what is timed.
    """

    def __init__(self, stats: RunStats, clock: Clock, own: Own | None):
        self.stats, self.clock, self.own = stats, clock, own
        self._ways: WeakKeyDictionary[Sparse, dict[tuple, Way]] = WeakKeyDictionary()
        self._checked: set[tuple] = set()

    def execute(self, call: Call, sparse: Sparse) -> Tensor | Dense:
        """Output (B, S, H, D) of a call, which is then counted, or why it has to be dense.

        Raises:
            Exception: what went wrong in the last backend that could be tried.
        """
        kind = (call.q.shape, call.q.dtype, call.key_bias is None)
        way = self._ways.setdefault(sparse, {}).get(kind)
        if way is None:
            return self._find_way(kind, call, sparse)
        if way.place is not None:
            sparse.tuner.count(way.place, sparse.density, way.backend)
        if way.kernel == DENSE:
            return fallback.NOT_FASTER
        attention = _attention_call(call, sparse, way.kernel)
        try:
            out = self._timed(attention, way.backend, way.kernel, sparse)
        except KernelFailed as error:
            if way.kernel != EXACT:
                self._leave_out(sparse, attention, way.backend, way.kernel, error)
            elif way.backend in ("torch", sparse.backend):
                raise
            else:
                bar(way.backend, attention, error.__cause__)
            return self._find_way(kind, call, sparse)
        self.stats.count_sparse(call.layer, sparse.density, way.label, call.q.device)
        return out

    def _find_way(self, kind: tuple, call: Call, sparse: Sparse) -> Tensor | Dense:
        """The same for calls of a kind whose way is not known yet; remembers it once it is."""
        attention = _attention_call(call, sparse, EXACT)
        try:
            # other errors than a kernel's say nothing of its backend
            (out, way), name, passed_over = with_fallback(
                attention,
                sparse.backend,
                partial(self._by_backend, call, sparse, attention),
                lambda error: not isinstance(error, KernelFailed),
            )
        except ValueError as error:
            self.stats.note(str(error))
            return fallback.BACKEND_REFUSED
        label = name if passed_over is None else f"{name} ({passed_over})"
        if way is not None:
            self._ways.setdefault(sparse, {})[kind] = replace(way, label=label)
        if not isinstance(out, Dense):
            self.stats.count_sparse(call.layer, sparse.density, label, call.q.device)
        elif out == fallback.NO_KERNELS:
            self.stats.note(f"no fast kernels here: {passed_over}")
        elif passed_over is not None and name != "torch":
            self.stats.note(passed_over)
        return out

    def _by_backend(
        self, call: Call, sparse: Sparse, attention: AttentionCall, name: str
    ) -> tuple[Tensor | Dense, Way | None]:
        """Output by a backend, or why the call has to be dense; and the way of calls like it, None while it is open."""
        q, tuner = attention.q, sparse.tuner
        if sparse.backend == AUTO and name == "torch" and (q.dtype in DTYPES or q.device.type not in TIMED_ON):
            # torch alone is slower than dense attention in 16 bits, and elsewhere nothing tells whether it is
            return fallback.NO_KERNELS, None
        keep_tables(attention.lists, attention.head_lists, q.shape[0], q.shape[-1], name)
        if tuner is None:
            return self._timed(attention, name, EXACT, sparse), Way(name, EXACT, name)
        place = tuner.place(call.grid, q, call.key_bias is not None, self.own)
        kernels = _kernels(attention, name)
        self.clock.collect()
        kernel = tuner.verdict(place, sparse.density, kernels, name)
        if kernel is None:
            out = self._try_all(call, sparse, attention, name, place, kernels)
            kernel = tuner.verdict(place, sparse.density, kernels, name)  # where times are known at once
        else:
            tuner.count(place, sparse.density, name)
            out = None
        way = None if kernel is None else Way(name, kernel, name, place)
        if kernel == DENSE:
            return fallback.NOT_FASTER, way
        if out is None and kernel != EXACT:
            chosen = replace(attention, int8=kernel == INT8)
            try:
                return self._timed(chosen, name, kernel, sparse), way
            except KernelFailed as error:  # which says nothing of the exact one
                self._leave_out(sparse, chosen, name, kernel, error)
                way = None
        return self._timed(attention, name, EXACT, sparse) if out is None else out, way

    def _try_all(
        self, call: Call, sparse: Sparse, attention: AttentionCall, name: str, place: object, kernels: tuple[str, ...]
    ) -> Tensor:
        """Output of the exact kernel, timed beside all that the tuner wants times of; other kernels are compared."""
        tuner, device = sparse.tuner, call.q.device
        if not self.clock.ready(device):
            self.stats.note(NOT_TIMED)
        if call.again is not None:
            self._time_dense(call, sparse, place)
        out, lane = None, tuner.lane(EXACT, sparse.density, name)
        while self._begin_timing(sparse, device, place, lane):
            out = None  # not two at a time
            out = self._timed(attention, name, EXACT, sparse, tuner.measured(place, lane))
        out = self._timed(attention, name, EXACT, sparse) if out is None else out
        for kernel in kernels[1:]:
            other = replace(attention, int8=kernel == INT8)
            try:
                self._compare(sparse, other, name, kernel, place, out)
            except Exception as error:
                if passes_through(error):
                    raise
                self._leave_out(sparse, other, name, kernel, error)
        return out

    def _leave_out(
        self, sparse: Sparse, attention: AttentionCall, name: str, kernel: str, error: Exception
    ) -> None:
        """Go on without a kernel that failed beside the exact one."""
        sparse.tuner.drop(kernel, name)
        if isinstance(error, KernelFailed):
            bar(name, attention, error.__cause__)
        self.stats.note(f"the {kernel} kernel failed and was left out: {error}")

    def _time_dense(self, call: Call, sparse: Sparse, place: object) -> None:
        """Time the model's own attention. An error in it says nothing of the pack's kernels."""
        device = call.q.device
        while self._begin_timing(sparse, device, place, DENSE):
            stop = self.time(device, DENSE, sparse.tuner.measured(place, DENSE))
            try:
                call.again()
            except Exception as error:
                if passes_through(error) or out_of_memory(error):
                    raise
                self.stats.note(NOT_TIMED)
                return
            finally:
                pause_again()
            stop()

    def _compare(
        self, sparse: Sparse, attention: AttentionCall, name: str, kernel: str, place: object, exact: Tensor
    ) -> None:
        """Time a kernel, and take its error against the exact one's output."""
        lane, other = sparse.tuner.lane(kernel, sparse.density, name), None
        while self._begin_timing(sparse, attention.q.device, place, lane):
            other = None
            other = self._timed(attention, name, kernel, sparse, sparse.tuner.measured(place, lane))
        if other is not None:
            # one number, read when the times are
            sparse.tuner.compared(place, lane, relative_error(other, exact))

    def _begin_timing(self, sparse: Sparse, device: torch.device, place: object, lane: str) -> bool:
        """Whether a call is to be timed for the tuner, and can be; it then counts as begun."""
        return self.clock.ready(device) and sparse.tuner.begin_timing(place, lane)

    def _timed(
        self,
        attention: AttentionCall,
        name: str,
        kernel: str,
        sparse: Sparse,
        done: Callable[[float], None] | None = None,
    ) -> Tensor:
        """Output of a call by a kernel, timed for the report, or for `done`; checked where its kind was not yet.

        Raises:
            KernelFailed: an error of the kernel, or an output that is wrong.
        """
        stop = self.time(attention.q.device, kernel, done)
        try:
            out = run_call(attention, name)
            stop()
            if sparse.tuner is not None and name != "torch":  # which is the specification
                self._check(attention, name, (name, kernel, round(20 * sparse.density), attention.q.shape), out)
        except Exception as error:
            if passes_through(error) or out_of_memory(error):
                raise
            self._ways.clear()  # what was found for other calls may be by the same kernel
            raise KernelFailed(str(error)) from error
        return out

    def _check(self, attention: AttentionCall, name: str, kind: tuple, out: Tensor) -> None:
        """Raise `WrongOutput` where a kernel's output is wrong on this call's data: once for each kind of calls."""
        if kind in self._checked:
            return
        try:
            spot_check(routed_call(attention, BACKENDS[name].choose), out)
        except Exception as error:
            if out_of_memory(error):
                return  # the next call of the kind is checked
            raise
        self._checked.add(kind)

    def time(self, device: torch.device, what: str, done: Callable[[float], None] | None = None) -> Callable[[], None]:
        """Begin to time a call; call the result at its end. Sparse calls count in `RunStats.seconds` where nothing else
        takes the milliseconds."""

        def add(milliseconds: float) -> None:
            self.stats.milliseconds[what] += milliseconds
            if done is None:
                self.stats.seconds += milliseconds / 1000
            else:
                done(milliseconds)

        return self.clock.start(device, what, add)


def _attention_call(call: Call, sparse: Sparse, kernel: str) -> AttentionCall:
    return AttentionCall(
        call.q, call.k, call.v, sparse.lists, sparse.head_lists, call.key_bias, int8=kernel == INT8
    )


def _kernels(attention: AttentionCall, name: str) -> tuple[str, ...]:
    """Kernels that can run a call: INT8 where the backend has it."""
    if name == "torch" or refusal(name, replace(attention, int8=True)) is not None:
        return (EXACT,)
    return KERNELS


def relative_error(x: Tensor, truth: Tensor) -> Tensor:
    """||x - truth|| / ||truth|| of two (B, S, H, D), one number on their device. Head by head: little memory."""
    sums = torch.zeros(2, dtype=torch.float32, device=x.device)
    for one, other in zip(x.unbind(2), truth.unbind(2), strict=True):
        sums[0] += (one.float() - other).square().sum()
        sums[1] += other.float().square().sum()
    return (sums[0] / sums[1].clamp_min(1e-30)).sqrt()
