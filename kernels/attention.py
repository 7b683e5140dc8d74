"""The one door to sparse attention: checks a call, picks a backend by declared constraints and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor

from .backends import compiled_backend, torch_backend, triton_backend
from .call import AttentionCall
from .lists import TileLists
from .routing import launch_slots, routed_call

BACKENDS: dict[str, ModuleType] = {  # in order of preference
    "triton": triton_backend,
    "compiled": compiled_backend,
    "torch": torch_backend,
}
AUTO = "auto"


def choose_backend(call: AttentionCall, backend: str = AUTO) -> tuple[str, str | None]:
    """Name of the backend for a call, and why faster ones were passed over (None when none was).

    Raises:
        ValueError: an unknown backend, or a named one that cannot run the call (with its reason).
    """
    if backend not in (AUTO, *BACKENDS):
        raise ValueError(f"backend {backend!r} is unknown, expected one of {', '.join((AUTO, *BACKENDS))}")
    passed_over = None
    for name, module in BACKENDS.items():
        if backend not in (AUTO, name):
            continue
        reason = module.refusal(call)
        if reason is None:
            return name, passed_over
        if backend == name:
            raise ValueError(f"backend {name} cannot run this call: {reason}; choose backend {AUTO}")
        passed_over = f"{passed_over}; {name}: {reason}" if passed_over else f"{name}: {reason}"
    raise AssertionError("the torch backend refuses nothing")


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, lists: TileLists, head_lists: Sequence[int], backend: str = AUTO, **options: object
) -> Tensor:
    """Self-attention in which every head attends its own tile list; `choose_backend` says which backend takes a call.

    Args:
        backend: `auto`, or the name of one in BACKENDS.
        options: `key_bias`, `int8` and `tail`, as all others described at `AttentionCall`.

    Returns:
        (B, S, H, D) in the dtype of q.

    Raises:
        ValueError: a call outside the contract, or a backend that cannot run it.
    """
    if not isinstance(head_lists, Sequence):
        raise ValueError(f"head_lists is {head_lists!r}, expected the number of a list for each head")
    call = AttentionCall(q, k, v, lists, tuple(head_lists), **options)
    return run_call(call, choose_backend(call, backend)[0])


def run_call(call: AttentionCall, name: str) -> Tensor:
    """Output (B, S, H, D) of a call by the backend that `choose_backend` named for it."""
    backend = BACKENDS[name]
    return backend.attention(routed_call(call, backend.means))


def keep_tables(
    lists: TileLists, head_lists: Sequence[int], batch: int, head_dim: int, backend: str | None = None
) -> None:
    """Make all that calls with these heads keep beside their lists, so that none of it is made within a call.

    Args:
        backend: that will run them; None where it is not known yet, which leaves out what it alone keeps.
    """
    pairs = tuple(head_lists) * batch
    lists.order_numbers()
    lists.zero()
    lists.skipped()
    lists.text_only()
    lists.slots(pairs, len(head_lists))
    launch_slots(lists, pairs, len(head_lists))
    if backend == "torch":
        torch_backend.keep_tables(lists, pairs, head_dim)
