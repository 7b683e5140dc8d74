"""Puts a run around ComfyUI's sampling: wrappers on a cloned MODEL, nothing on the diffusion model itself."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP, get_wrappers_with_key
from torch import nn

from . import reasons
from .engine import Engine
from .families import Family, detect
from .override import CHAINED, LAYOUT, SEEN, attention_override
from .run import Run, current_run, pop_run, push_run

KEY = "sparse_vdit"
OVERRIDE = "optimized_attention_override"
LOG = logging.getLogger("sparse_vdit")

MakeEngine = Callable[[object, nn.Module, Family], Engine | str]
"""From the MODEL, its diffusion model and family: the run's engine, or why everything stays dense."""

Finish = Callable[[Run], None]
"""Called with the run when sampling ended without an error, or before it when the whole run stays dense."""


def install(patcher: object, make_engine: MakeEngine, finish: Finish) -> None:
    """Add the wrappers to a MODEL that the caller has cloned. A second installation replaces the first."""
    if patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        LOG.warning("Sparse-vDiT: this model was patched before; the later node counts, the earlier one is ignored")
    wrappers = {
        WrappersMP.OUTER_SAMPLE: partial(_outer_sample, make_engine, finish),
        WrappersMP.APPLY_MODEL: _apply_model,
        WrappersMP.DIFFUSION_MODEL: _diffusion_model,
    }
    for kind, wrapper in wrappers.items():
        patcher.remove_wrappers_with_key(kind, KEY)
        patcher.add_wrapper_with_key(kind, KEY, wrapper)
    patcher.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, KEY)
    patcher.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, _on_cleanup)


def pause_malloc_graph() -> AbstractContextManager:
    """Context for allocations that outlive a forward which ComfyUI records; nothing where there is no such thing."""
    pause = getattr(sys.modules.get("comfy.model_prefetch"), "pause_malloc_graph", None)
    return pause() if pause is not None else nullcontext()


def _outer_sample(make_engine: MakeEngine, finish: Finish, executor: object, *args: object, **kwargs: object) -> object:
    """The run's beginning and end. `executor.class_obj` is the guider, its model_options the run's own copy."""
    guider = executor.class_obj
    model = guider.model_patcher.model.diffusion_model
    options = guider.model_options.setdefault("transformer_options", {})
    chained = options.get(OVERRIDE)
    engine = _whole_run_reason(guider, options) or _make(make_engine, guider.model_patcher, model)
    if isinstance(engine, str):
        finish(Run(None, None, refusal=engine))  # before sampling: strict mode need not wait for a video to fail
        return executor(*args, **kwargs)
    run = Run(engine, _own_attention(model), chained)
    run.compiled = _forget_compiled(model, options, chained)
    options[OVERRIDE], options[CHAINED] = attention_override, chained
    push_run(run)
    try:
        result = executor(*args, **kwargs)
        run.read_clocks()
    finally:
        pop_run(run)
        run.free()
        _restore(options, chained)
    finish(run)
    return result


def _restore(options: dict, chained: Callable | None) -> None:
    options.pop(CHAINED, None)
    if chained is None:
        options.pop(OVERRIDE, None)
    else:
        options[OVERRIDE] = chained


def _make(make_engine: MakeEngine, patcher: object, model: nn.Module) -> Engine | str:
    family, why = detect(model)
    return why if family is None else make_engine(patcher, model, family)


def _own_attention(model: nn.Module) -> Callable:
    """The attention that the model's code calls, without the wrapper that looks for overrides."""
    module = sys.modules.get(type(model).__module__)
    function = (
        getattr(module, "optimized_attention", None) or sys.modules["comfy.ldm.modules.attention"].optimized_attention
    )
    return getattr(function, "__wrapped__", function)


def _whole_run_reason(guider: object, options: dict) -> str | None:
    if guider.model_patcher.get_additional_models_with_key("multigpu"):
        return reasons.SEVERAL_GPUS
    if not get_wrappers_with_key(WrappersMP.APPLY_MODEL, "torch.compile", options):
        return None
    compile_options = guider.model_options.get("torch_compile_kwargs") or {}
    graphs = ("reduce-overhead", "max-autotune")
    if compile_options.get("backend") == "cudagraphs" or compile_options.get("mode") in graphs:
        return reasons.CUDA_GRAPHS
    return None


_compiled: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
"""Diffusion model -> what its compiled code was made with: a function that gives the chained override."""


def _forget_compiled(model: nn.Module, options: dict, chained: Callable | None) -> bool:
    """Make a compiled model compile anew where its code was made without our override or with another chain.

    Returns whether the model is compiled at all.

    ComfyUI drops the compiler's guards on transformer_options, so stale code would run silently.
    """
    if not get_wrappers_with_key(WrappersMP.APPLY_MODEL, "torch.compile", options):
        return False
    known = _compiled.get(model)
    if known is None or known() is not chained:
        torch._dynamo.reset()
        _compiled[model] = _reference(chained)
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


def _apply_model(executor: object, x: torch.Tensor, t: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    """Around one forward, outside of compiled code: decides about it, and repeats it dense when it went wrong."""
    run = current_run()
    if run is None:
        return executor(x, t, *args, **kwargs)
    run.blocks = None
    run.options = args[3] if len(args) > 3 else kwargs.get("transformer_options", {})
    if run.options.get(OVERRIDE) is not attention_override:
        run.note(reasons.REPLACED)
    sigma = float(t.flatten()[0])
    run.reason = run.stopped or run.engine.reason(sigma)
    unknown = _prepare(run, executor.class_obj.diffusion_model, x, kwargs)
    run.begin_forward(x.device, sigma)
    calls = run.calls()
    out = executor(x, t, *args, **kwargs)
    if run.calls() == calls and unknown is not None:  # compiled code, which refuses such calls without asking the run
        run.dense[unknown] += 1
    elif run.compiled and run.calls() == calls:  # stale code, made without our override at this size
        torch._dynamo.reset()
        out = executor(x, t, *args, **kwargs)
    run.compiled = False
    while run.must_repeat():
        out = executor(x, t, *args, **kwargs)
    run.options = None
    return out


def _prepare(run: Run, model: nn.Module, x: torch.Tensor, extra: dict) -> str | None:
    """Tile lists before the first block, from the latents' shape; a layout not seen here is built by the first call.

    Returns why the model's tokens are unknown, None when they are not.
    """
    model = getattr(model, "_orig_mod", model)  # under torch.compile
    family, why = detect(model)
    if family is None:
        return why
    layout = family.layout(model, tuple(x.shape), extra) if x.ndim == 5 else None
    if isinstance(layout, tuple) and run.reason is None:
        run.prepare(layout, x.shape[0], x.device)
    return layout if isinstance(layout, str) else None


def _diffusion_model(executor: object, *args: object, **kwargs: object) -> object:
    """Around the model's forward, inside of compiled code: shapes in, a tuple out, nothing else.

    Where only single blocks are compiled, this runs as plain Python, and the run remembers the options that say which
    block is at work: blocks then share code, and the block number in it is that of the first.

    Wan's positional arguments are x, timestep, context, clip_fea, time_dim_concat, transformer_options.
    """
    options = kwargs.get("transformer_options", args[5] if len(args) > 5 else None)
    if options is not None:
        family, why = detect(executor.class_obj)
        extra = kwargs if len(args) < 5 else {**kwargs, "time_dim_concat": args[4]}
        options[LAYOUT] = why if family is None else family.layout(executor.class_obj, tuple(args[0].shape), extra)
        options[SEEN] = None
        run = None if torch.compiler.is_compiling() else current_run()
        if run is not None:
            run.blocks = options
    return executor(*args, **kwargs)


def _on_cleanup(patcher: object) -> None:
    run = current_run()
    if run is not None:
        run.read_clocks()
        run.free()
