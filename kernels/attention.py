"""Sparse attention: checks a call, chooses a backend that passed its self-test, and runs it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

from .backends import compiled_backend, torch_backend, triton_backend
from .call import AttentionCall
from .lists import TileLists
from .memory import out_of_memory
from .routing import routed_call, routing_of
from .self_test import error_line, self_test, small_call
from .spot_check import WrongOutput

BACKENDS: dict[str, ModuleType] = {  # in order of preference
    "triton": triton_backend,
    "compiled": compiled_backend,
    "torch": torch_backend,
}
AUTO = "auto"

T = TypeVar("T")
LOG = logging.getLogger("sparse_vdit")

Kind = tuple[str, torch.device, torch.dtype, int, bool]
"""Backend, device, dtype, head_dim, whether in 8 bits. What fails for one call counts for all of its kind."""

_failures: dict[Kind, str] = {}
_tested: dict[tuple[Kind, bool], str | None] = {}  # with whether a head was routed


class KernelFailed(RuntimeError):  # noqa: N818 - what failed is the kernel
    """A backend's kernels failed with the error in `__cause__`. Other errors do not count against the backend."""


def choose_backend(call: AttentionCall, backend: str = AUTO) -> tuple[str, str | None]:
    """Name of the backend for a call, and why faster ones were passed over (None when none was).

    The first call of a kind runs the backend's self-test, which takes less than a second; `try_kernels` does it
    beforehand.

    Raises:
        ValueError: an unknown backend, or a named one that cannot run the call (with its reason).
        torch.OutOfMemoryError: memory ran out while kernels were loaded or tested.
    """
    if backend not in (AUTO, *BACKENDS):
        raise ValueError(f"backend {backend!r} is unknown, expected one of {', '.join((AUTO, *BACKENDS))}")
    passed_over = []
    for asked, name in _candidates(call, backend):
        reason = refusal(name, asked)
        if reason is None:
            return name, "; ".join(passed_over) or None
        passed_over.append(f"{name}{' in 8 bits' * asked.int8}: {reason}")
    raise ValueError(f"backend {backend} cannot run this call: {reason}; choose backend {AUTO}")


def _candidates(call: AttentionCall, backend: str) -> Iterator[tuple[AttentionCall, str]]:
    """Calls and backends to try, the first choice first: exact kernels where there are none in 8 bits, then torch."""
    names = [name for name in BACKENDS if backend in (AUTO, name)]
    for asked in (call, replace(call, int8=False)) if call.int8 else (call,):
        yield from ((asked, name) for name in names if name != "torch")
    yield from ((call, name) for name in names if name == "torch")


def as_run(call: AttentionCall, name: str) -> AttentionCall:
    """The call as a backend runs it: exact where it has nothing for 8 bits."""
    return replace(call, int8=False) if call.int8 and refusal(name, call) is not None else call


def refusal(name: str, call: AttentionCall) -> str | None:
    """Why a backend is not to run a call: it cannot, it failed before, or its self-test did. None when it can."""
    kind = _kind(name, call)
    if kind in _failures:
        return _failures[kind]
    reason = BACKENDS[name].refusal(call)
    if reason is not None or not BACKENDS[name].needs_self_test(call.q.device):
        return reason
    return _self_test(kind, not call.lists.routed.keys().isdisjoint(call.head_lists))


def with_fallback(
    call: AttentionCall,
    backend: str,
    compute: Callable[[str], T],
    passes_through: Callable[[Exception], bool] = out_of_memory,
) -> tuple[T, str, str | None]:
    """What `compute` gives for the first backend that does not fail, its name, and why others were passed over.

    A backend that fails is not asked again for calls of the same kind, in this process.

    Args:
        compute: computes the call by a backend of that name.
        passes_through: whether an error says nothing of the backend; it is raised.
    """
    while True:
        name, passed_over = choose_backend(call, backend)
        try:
            return compute(name), name, passed_over
        except Exception as error:
            if passes_through(error) or name == "torch" or backend == name:
                raise
            LOG.warning("Sparse-vDiT: backend %s failed, the next one is tried", name, exc_info=True)
            bar(name, as_run(call, name), error.__cause__ if isinstance(error, KernelFailed) else error)


def bar(name: str, call: AttentionCall, error: Exception) -> None:
    """Remember that a backend failed, for all calls of the kind."""
    text = error_line(error)
    _failures[_kind(name, call)] = text if isinstance(error, WrongOutput) else f"it failed: {text}"


def try_kernels(
    device: torch.device, dtype: torch.dtype, head_dim: int, int8: bool, routed: bool, backend: str = AUTO
) -> None:
    """Run the self-tests that calls of a kind would run, before there is such a call.

    Raises:
        torch.OutOfMemoryError: memory ran out.
    """
    kinds = [(name, device, dtype, head_dim, int8) for name in (BACKENDS if backend == AUTO else [backend])]
    if any(_tested.get((kind, routed), "untested") is None and kind not in _failures for kind in kinds):
        return  # one has passed, and did not fail since
    with suppress(ValueError):  # a named backend that cannot run the calls, which they will say
        choose_backend(small_call(device, dtype, head_dim, int8, routed), backend)


def forget_failures() -> None:
    """Forget failures and self-tests: every backend is tested again."""
    _failures.clear()
    _tested.clear()


def _kind(name: str, call: AttentionCall) -> Kind:
    return name, call.q.device, call.q.dtype, call.q.shape[-1], call.int8


def _self_test(kind: Kind, routed: bool) -> str | None:
    if not routed and _tested.get((kind, True), "untested") is None:
        return None  # the test with a routed head has all other kinds too
    if (kind, routed) not in _tested:  # not kept where memory ran out, which raises
        name, *options = kind
        _tested[kind, routed] = self_test(BACKENDS[name], *options, routed)
    return _tested[kind, routed]


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, lists: TileLists, head_lists: Sequence[int], backend: str = AUTO, **options: object
) -> Tensor:
    """Self-attention in which every head attends its own tile list; `choose_backend` says which backend takes a call.

    Args:
        backend: `auto`, or the name of one in BACKENDS.
        options: `key_bias` and `int8`, as all others described at `AttentionCall`.

    Returns:
        (B, S, H, D) in the dtype of q.

    Raises:
        ValueError: a call outside the contract, or a backend that cannot run it.
    """
    if not isinstance(head_lists, Sequence):
        raise ValueError(f"head_lists is {head_lists!r}, expected the number of a list for each head")
    call = AttentionCall(q, k, v, lists, tuple(head_lists), **options)
    return with_fallback(call, backend, lambda name: run_call(call, name))[0]


def run_call(call: AttentionCall, name: str) -> Tensor:
    """Output (B, S, H, D) of a call by the backend that `choose_backend` named for it."""
    backend = BACKENDS[name]
    return backend.attention(routed_call(as_run(call, name), backend.choose))


def keep_tables(
    lists: TileLists, head_lists: Sequence[int], batch: int, head_dim: int, backend: str | None = None
) -> None:
    """Fill the caches that calls with these heads use, so that no call has to.

    Args:
        backend: the backend that will run them; None while it is not known, which leaves out its own tables.
    """
    pairs = tuple(head_lists) * batch
    lists.order_numbers()
    lists.zero()
    lists.skipped()
    lists.text_only()
    lists.slots(pairs, len(head_lists))
    routing_of(lists, pairs, len(head_lists))
    if backend == "torch":
        torch_backend.keep_tables(lists, pairs, head_dim)
