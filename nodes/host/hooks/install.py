"""Puts a run around ComfyUI's sampling: wrappers on a cloned MODEL, nothing on the diffusion model itself."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP, get_wrappers_with_key
from torch import nn

from ..core import fallback
from ..core.fallback import Dense, dense_because
from ..models import Inputs, detect, token_grid
from ..session.call import Policy
from ..session.run import Run, as_current, current_run
from . import compile_op
from .blocks import describe_forward
from .compile_op import CHAINED, REFUSED
from .override import attention_override
from .own_attention import model_attention, undecorated
from .replaced import OVERRIDE, Watch
from .sampling import OUTER_SAMPLE_ARGUMENTS, Sampling, sampling_of

KEY = "sparse_vdit"
LOG = logging.getLogger("sparse_vdit")

Select = Callable[[Sampling], Policy | Dense]
"""From what is about to be sampled: the run's policy, or why everything stays dense."""

Finish = Callable[[Run | Dense], None]
"""Called with the run when sampling ended without an error, or with the reason before it when all of it stays dense."""


def install(patcher: object, select: Select, finish: Finish) -> None:
    """Add the wrappers to a MODEL that the caller has cloned. A second installation replaces the first."""
    if patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        LOG.warning("Sparse-vDiT: this model was patched before; the later node counts, the earlier one is ignored")
    wrappers = {
        WrappersMP.OUTER_SAMPLE: partial(_outer_sample, select, finish),
        WrappersMP.APPLY_MODEL: _apply_model,
        WrappersMP.DIFFUSION_MODEL: _diffusion_model,
    }
    for kind, wrapper in wrappers.items():
        patcher.remove_wrappers_with_key(kind, KEY)
        patcher.add_wrapper_with_key(kind, KEY, wrapper)
    patcher.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, KEY)
    patcher.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, _on_cleanup)


def _outer_sample(select: Select, finish: Finish, executor: object, *args: object, **kwargs: object) -> object:
    """The run's beginning and end. `executor.class_obj` is the guider, its model_options the run's own copy."""
    guider = executor.class_obj
    patcher, model = guider.model_patcher, guider.model_patcher.model.diffusion_model
    options = guider.model_options.setdefault("transformer_options", {})
    family = detect(model)
    given = {**dict(zip(OUTER_SAMPLE_ARGUMENTS, args, strict=False)), **kwargs}
    policy = _why_dense(guider, options, given["sigmas"]) or (
        family if isinstance(family, Dense) else select(sampling_of(guider, family, given))
    )
    if isinstance(policy, Dense):
        finish(policy)  # before sampling: strict mode need not wait for a video to fail
        return executor(*args, **kwargs)
    with _override(options) as chained:
        run = Run(policy, (undecorated(model_attention(model)), chained))
        run.watch = Watch(patcher, model, family.shape(model)[0], _prepare_compiled(model, options, chained))
        run.try_kernels(partial(_target, patcher))
        try:
            with running(run):
                result = executor(*args, **kwargs)
                run.clock.collect(wait=True)
        finally:
            run.free()
    verdict = run.watch.verdict(run.stats)
    if verdict is not None:
        run.stats.note(verdict)
    finish(run)
    return result


def _target(patcher: object) -> tuple[torch.device, torch.dtype]:
    """Device and dtype that a MODEL will compute on, as other nodes patched it: it is not loaded yet."""
    cast = patcher.get_model_object("manual_cast_dtype")
    return patcher.load_device, cast or patcher.model.get_dtype()


@contextmanager
def running(run: Run) -> Iterator[None]:
    """Make a run the current one, for plain code and for compiled code."""
    try:
        with as_current(run):
            compile_op.set_sampling(True)
            yield
    finally:
        compile_op.set_sampling(current_run() is not None)


@contextmanager
def _override(options: dict) -> Iterator[Callable | None]:
    """Put the pack's override into transformer_options, and what was there back at the end; gives that."""
    found = {key: options[key] for key in (OVERRIDE, CHAINED) if key in options}
    # never our own, which the options of a run within a run hold already
    chained = found.get(CHAINED if found.get(OVERRIDE) is attention_override else OVERRIDE)
    options[OVERRIDE], options[CHAINED] = attention_override, chained
    try:
        yield chained
    finally:
        for key in (OVERRIDE, CHAINED):
            options.pop(key, None)
        options.update(found)


def _why_dense(guider: object, options: dict, sigmas: torch.Tensor) -> Dense | None:
    """Why the whole run stays dense, whatever the model is."""
    if len(sigmas) < 2:  # one level is the end of a step that another sampler has made
        return fallback.NO_STEPS
    if guider.model_patcher.get_additional_models_with_key("multigpu"):
        return fallback.SEVERAL_GPUS
    if not get_wrappers_with_key(WrappersMP.APPLY_MODEL, "torch.compile", options):
        return None
    compile_options = guider.model_options.get("torch_compile_kwargs") or {}
    graphs = ("reduce-overhead", "max-autotune")
    if compile_options.get("backend") == "cudagraphs" or compile_options.get("mode") in graphs:
        return fallback.CUDA_GRAPHS
    return None


_made_for: tuple[type, Callable[[], object]] | None = None
"""What compiled code of the pack was last made for: class of the model, and what gives the chained override."""

_with_ours: weakref.WeakSet = weakref.WeakSet()
"""Diffusion models that were compiled anew because some of their code was made without our override."""


def _prepare_compiled(model: nn.Module, options: dict, chained: Callable | None) -> bool:
    """Returns whether a model is compiled. The pack's code is dropped before, where it was made for another chained
    override or for transformer_options of another class of models.

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
    run.begin_step(sigma)
    context = args[1] if len(args) > 1 else kwargs.get("c_crossattn")
    inputs = {**kwargs, "x": x, "context": context, "transformer_options": run.options}
    _prepare(run, executor.class_obj.diffusion_model, inputs, x)
    run.begin_forward(x.device, sigma)
    out = _forward(run, executor, x, t, args, kwargs)
    if run.watch.note_shapes({**kwargs, "": x}) and _without_ours(run):
        torch._dynamo.reset()
        _with_ours.add(run.watch.model)
        run.begin_again()
        out = _forward(run, executor, x, t, args, kwargs)
    if run.go_dense_where_spoiled():
        out = _forward(run, executor, x, t, args, kwargs)
        run.end_repeated()
    run.watch.forward(run.options, attention_override, run.stats.forward.calls())
    run.options = None
    run.forget_blocks()
    compile_op.forget_forward()
    return out


def _forward(run: Run, executor: object, x: torch.Tensor, t: torch.Tensor, args: tuple, kwargs: dict) -> torch.Tensor:
    run.options[REFUSED] = refused = []
    compile_op.forget_forward()
    out = executor(x, t, *args, **kwargs)
    for reason in refused:
        run.stats.count_dense(dense_because(reason))
    return out


def _without_ours(run: Run) -> bool:
    """Whether code that was made without our override has run, by the calls that came in a forward of new shapes. Where
    some came, another node may take the others: then a model is compiled anew only once."""
    calls = run.stats.forward.calls()
    return calls == 0 or (calls < run.watch.layers and run.watch.model not in _with_ours)


def _prepare(run: Run, model: nn.Module, inputs: Inputs, x: torch.Tensor) -> None:
    """Tile lists before the first block, from the latents' shape; for another grid the first call makes them."""
    if run.forward_is_dense is not None:
        return
    model = getattr(model, "_orig_mod", model)  # under torch.compile
    family = detect(model)
    if isinstance(family, Dense):
        return
    shapes = inputs.get("latent_shapes")
    if shapes is not None:  # video and sound, packed for the sampler
        packed = [torch.empty(tuple(shape), device="meta") for shape in shapes]
        inputs = {**inputs, "x": packed if len(packed) > 1 else packed[0]}
    grid = token_grid(model, family, inputs)
    if not isinstance(grid, Dense):
        run.prepare(grid, x.shape[0], x.device)


def _diffusion_model(executor: object, *args: object, **kwargs: object) -> object:
    """Around the model's forward, inside of compiled code: shapes in, numbers and texts out, nothing else. It touches
    nothing without a run."""
    if not compile_op.sampling():
        return executor(*args, **kwargs)
    model = executor.class_obj
    family = detect(model)
    if not isinstance(family, Dense):
        inputs = {**dict(zip(family.arguments, args, strict=False)), **kwargs}
        options = inputs.get("transformer_options")
        if options is not None:
            describe_forward(options, family, model, inputs)
    return executor(*args, **kwargs)


def _on_cleanup(patcher: object) -> None:
    run = current_run()
    if run is not None:
        run.clock.collect(wait=True)
        run.free()
