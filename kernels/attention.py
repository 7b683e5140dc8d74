"""The one door to sparse attention: picks a backend by declared constraints and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor

from .backends import torch_backend, triton_backend
from .lists import TileLists

BACKENDS: dict[str, ModuleType] = {"triton": triton_backend, "torch": torch_backend}  # in order of preference
AUTO = "auto"


def choose_backend(q: Tensor, lists: TileLists, backend: str = AUTO) -> tuple[str, str | None]:
    """Name of the backend for q (B, S, H, D), and why a faster one was passed over (None when none was).

    Raises:
        ValueError: an unknown backend, or a named one that cannot run the call (with its reason).
    """
    if backend not in (AUTO, *BACKENDS):
        raise ValueError(f"backend {backend!r} is unknown, expected one of {', '.join((AUTO, *BACKENDS))}")
    passed_over = None
    for name, module in BACKENDS.items():
        if backend not in (AUTO, name):
            continue
        reason = module.refusal(q, lists)
        if reason is None:
            return name, passed_over
        if backend == name:
            raise ValueError(f"backend {name} cannot run this call: {reason}; choose backend {AUTO}")
        passed_over = f"{name}: {reason}"
    raise AssertionError("the torch backend refuses nothing")


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, lists: TileLists, head_lists: Sequence[int], backend: str = AUTO
) -> Tensor:
    """Self-attention in which every head attends its own tile list.

    Args:
        q, k, v: (B, S, H, D) of one shape, dtype and device, any strides; S is `lists.grid.tokens`.
        lists: tile lists on the device of q.
        head_lists: number of a list for each head.
        backend: `auto`, or the name of one in BACKENDS.

    Returns:
        (B, S, H, D) in the dtype of q.

    Raises:
        ValueError: shapes that do not fit each other or the lists, or a backend that cannot run the call.
    """
    if q.ndim != 4 or not q.shape == k.shape == v.shape:
        raise ValueError(f"q, k, v are {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}, expected one (B, S, H, D)")
    if q.shape[1] != lists.grid.tokens:
        raise ValueError(f"sequence has {q.shape[1]} tokens, the tile lists are for {lists.grid} = {lists.grid.tokens}")
    if len(head_lists) != q.shape[2] or not all(0 <= number < len(lists.densities) for number in head_lists):
        raise ValueError(f"head_lists {list(head_lists)} do not give one of {len(lists.densities)} lists per head")
    if q.dtype != k.dtype or q.dtype != v.dtype or not q.device == k.device == v.device == lists.columns.device:
        raise ValueError("q, k, v and the tile lists must share one device, and q, k, v one dtype")
    name, _ = choose_backend(q, lists, backend)
    return BACKENDS[name].attention(q, k, v, lists, list(head_lists))
