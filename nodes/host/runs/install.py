"""Puts a run around ComfyUI's sampling: wrappers on a cloned MODEL, nothing on the diffusion model itself."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from functools import partial

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP, get_wrappers_with_key
from torch import nn

from ..attention import guarded, override
from ..attention.override import CHAINED, REFUSED, attention_override, describe_forward
from ..attention.own_attention import model_attention, undecorated
from ..attention.replaced import OVERRIDE, Watch
from ..families import Family, detect, read_layout
from ..reports import reasons
from .current import current_run, pop_run, push_run
from .engine import Engine
from .run import Run
from .sampling import Sampling, foreseen_grid, prompt_label

KEY = "sparse_vdit"
LOG = logging.getLogger("sparse_vdit")

MakeEngine = Callable[[Sampling], Engine | str]
"""From what is about to be sampled: the run's engine, or why everything stays dense."""

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


def _outer_sample(make_engine: MakeEngine, finish: Finish, executor: object, *args: object, **kwargs: object) -> object:
    """The run's beginning and end. `executor.class_obj` is the guider, its model_options the run's own copy."""
    guider = executor.class_obj
    model = guider.model_patcher.model.diffusion_model
    options = guider.model_options.setdefault("transformer_options", {})
    family, why = detect(model)
    engine = _whole_run_reason(guider, options) or why or make_engine(_sampling(guider, model, family, args, kwargs))
    if isinstance(engine, str):
        finish(Run(None, None, refusal=engine))  # before sampling: strict mode need not wait for a video to fail
        return executor(*args, **kwargs)
    found = {key: options[key] for key in (OVERRIDE, CHAINED) if key in options}
    # never our own, which the options of a run within a run hold already
    chained = found.get(CHAINED if found.get(OVERRIDE) is attention_override else OVERRIDE)
    run = Run(engine, undecorated(model_attention(model)), chained)
    run.watch = Watch(guider.model_patcher, model, family.shape(model)[0])
    run.compiled = _is_compiled(model, options, chained)
    run.try_kernels(guider.model_patcher)
    options[OVERRIDE], options[CHAINED] = attention_override, chained
    push_run(run)
    override.sampling = True
    try:
        result = executor(*args, **kwargs)
        run.read_clocks()
    finally:
        pop_run(run)
        override.sampling = current_run() is not None
        run.free()
        for key in (OVERRIDE, CHAINED):
            options.pop(key, None)
        options.update(found)
    verdict = run.replaced()
    if verdict is not None:
        run.ledger.note(verdict)
    finish(run)
    return result


def _sampling(guider: object, model: nn.Module, family: Family, args: tuple, kwargs: dict) -> Sampling:
    """What is known from the arguments of ComfyUI's `outer_sample`: noise, latents, sampler, sigmas ..."""
    given = {**dict(zip(("noise", "latent_image", "sampler", "sigmas"), args, strict=False)), **kwargs}
    grid = foreseen_grid(model, family, given["noise"], kwargs.get("latent_shapes"), guider.model_options)
    sigmas = tuple(given["sigmas"].tolist())
    return Sampling(guider.model_patcher, model, family, sigmas, grid, prompt_label(guider.conds))


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


_made_for: tuple[type, Callable[[], object]] | None = None
"""What compiled code of the pack was last made for: class of the model, and what gives the chained override."""

_with_ours: weakref.WeakSet = weakref.WeakSet()
"""Diffusion models that were compiled anew because some of their code was made without our override."""


def _is_compiled(model: nn.Module, options: dict, chained: Callable | None) -> bool:
    """Whether a model is compiled. The pack's code is dropped before, where it was made for another chained override or
    for transformer_options of another class of models.

    ComfyUI drops the compiler's guards on transformer_options, so stale code would run silently. With it goes the code
    of other models, which takes minutes to make again: nothing is dropped without need.
    """
    global _made_for
    if not get_wrappers_with_key(WrappersMP.APPLY_MODEL, "torch.compile", options):
        return False
    if _made_for is not None and (_made_for[0] is not type(model) or _made_for[1]() is not chained):
        torch._dynamo.reset()
    _made_for = type(model), _reference(chained)
    return True


def _without_ours(run: Run, calls: int) -> bool:
    """Whether code that was made without our override has run, by the calls that came in a forward of new shapes. Where
    some came, another node may take the others: then a model is compiled anew only once."""
    return calls == 0 or (calls < run.watch.layers and run.watch.model not in _with_ours)


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
    run.options = args[3] if len(args) > 3 else kwargs.get("transformer_options", {})
    sigma = float(t.flatten()[0])
    run.reason = run.stopped or run.engine.reason(sigma)
    context = args[1] if len(args) > 1 else kwargs.get("c_crossattn")
    inputs = {**kwargs, "x": x, "context": context, "transformer_options": run.options}
    _prepare(run, executor.class_obj.diffusion_model, inputs, x)
    run.begin_forward(x.device, sigma)
    new = run.compiled and run.watch.is_new({**kwargs, "": x})
    calls = run.ledger.calls()

    def forward() -> torch.Tensor:
        run.options[REFUSED] = refused = []
        guarded.end_forward()
        out = executor(x, t, *args, **kwargs)
        for reason in refused:
            run.ledger.count_dense(reason)
        return out

    out = forward()
    if new and _without_ours(run, run.ledger.calls() - calls):
        torch._dynamo.reset()
        _with_ours.add(run.watch.model)
        run.begin_again(x.device)
        out = forward()
    while run.must_repeat():
        out = forward()
    run.watch.forward(run.options, attention_override, run.ledger.calls() - calls)
    run.options = None
    run.forget_blocks()
    guarded.end_forward()
    return out


def _prepare(run: Run, model: nn.Module, inputs: dict, x: torch.Tensor) -> None:
    """Tile lists before the first block, from the latents' shape; a layout not seen here is built by the first call."""
    model = getattr(model, "_orig_mod", model)  # under torch.compile
    family, _ = detect(model)
    if family is None:
        return
    shapes = inputs.get("latent_shapes")
    if shapes is not None:  # video and sound, packed for the sampler
        packed = [torch.empty(tuple(shape), device="meta") for shape in shapes]
        inputs = {**inputs, "x": packed if len(packed) > 1 else packed[0]}
    layout = read_layout(model, family, inputs)
    if isinstance(layout, tuple) and run.reason is None:
        run.prepare(layout, x.shape[0], x.device)


def _diffusion_model(executor: object, *args: object, **kwargs: object) -> object:
    """Around the model's forward, inside of compiled code: shapes in, numbers and texts out, nothing else."""
    model = executor.class_obj
    family, _ = detect(model)
    if family is not None:
        inputs = {**dict(zip(family.arguments, args, strict=False)), **kwargs}
        options = inputs.get("transformer_options")
        if options is not None:
            describe_forward(options, family, model, inputs)
    return executor(*args, **kwargs)


def _on_cleanup(patcher: object) -> None:
    run = current_run()
    if run is not None:
        run.read_clocks()
        run.free()
