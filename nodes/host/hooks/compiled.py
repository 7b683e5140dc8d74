"""Models under torch.compile: when their code is stale, and when it cannot be followed."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from comfy.patcher_extension import WrappersMP, get_wrappers_with_key
from torch import nn

from ..core import fallback
from ..core.fallback import Dense
from ..session.run import Run

GRAPHS = ("reduce-overhead", "max-autotune")
"""Modes of the compiler that record CUDA graphs."""


def is_compiled(options: dict) -> bool:
    """Whether a model with these transformer_options is compiled."""
    return bool(get_wrappers_with_key(WrappersMP.APPLY_MODEL, "torch.compile", options))


def why_dense_compiled(model_options: dict) -> Dense | None:
    """Why a compiled model stays dense, None where it need not."""
    given = model_options.get("torch_compile_kwargs") or {}
    graphs = given.get("backend") == "cudagraphs" or given.get("mode") in GRAPHS
    return fallback.CUDA_GRAPHS if graphs and is_compiled(model_options.get("transformer_options", {})) else None


_made_for: tuple[type, Callable[[], object]] | None = None
"""What compiled code of the pack was last made for: class of the model, and what gives the chained override."""

_with_ours: weakref.WeakSet = weakref.WeakSet()
"""Diffusion models that were compiled anew because some of their code was made without our override."""


def prepare_compiled(model: nn.Module, options: dict, chained: Callable | None) -> bool:
    """Returns whether a model is compiled. The pack's code is dropped before, where it was made for another chained
    override or for transformer_options of another class of models.

    ComfyUI drops the compiler's guards on transformer_options, so stale code would run silently. With it goes the code
    of other models, which takes minutes to make again: nothing is dropped without need.
    """
    global _made_for
    if not is_compiled(options):
        return False
    if _made_for is not None and (_made_for[0] is not type(model) or _made_for[1]() is not chained):
        torch._dynamo.reset()
    _made_for = type(model), _reference(chained)
    return True


def _reference(chained: Callable | None) -> Callable[[], object]:
    if chained is None:
        return lambda: None
    try:
        reference = weakref.ref(chained)
    except TypeError:  # no weak references to it: never take it for known
        return object
    return lambda: reference() or _GONE


_GONE = object()  # a chained override that no longer exists is not the same as none


def without_ours(run: Run) -> bool:
    """Whether code that was made without our override has run, by the calls that came in a forward of new shapes. Where
    some came, another node may take the others: then a model is compiled anew only once."""
    calls = run.stats.forward.calls()
    return calls == 0 or (calls < run.watch.layers and run.watch.model not in _with_ours)


def compile_anew(run: Run) -> None:
    """Drop the code that was made without our override."""
    torch._dynamo.reset()
    _with_ours.add(run.watch.model)
