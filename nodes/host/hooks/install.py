"""Puts a run around ComfyUI's sampling: wrappers on a cloned MODEL, nothing on the diffusion model itself."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import nn

from ..core import fallback
from ..core.fallback import Dense, failed
from ..models import Inputs, detect, token_grid
from ..session.call import Policy
from ..session.run import Run, as_current, current_run
from . import compile_op
from .blocks import describe_forward
from .compile_op import CHAINED
from .compiled import compile_anew, prepare_compiled, why_dense_compiled, without_ours
from .override import attention_override
from .own_attention import model_attention, undecorated
from .replaced import OVERRIDE, Watch
from .sampled import Sampled, close_other, of_model, open_other, opened, other
from .sampling import OUTER_SAMPLE_ARGUMENTS, Sampling, sampling_of

KEY = "sparse_vdit"
MULTIGPU = "multigpu"
"""ComfyUI's key of a MODEL's copies on other GPUs."""
LOG = logging.getLogger("sparse_vdit")

Select = Callable[[Sampling], Policy | Dense]
"""From what is about to be sampled: the run's policy, or why everything stays dense."""

Finish = Callable[[Run | Dense], None]
"""Called with the run when sampling ended without an error, or with the reason before it when all of it stays dense."""


def install(patcher: object, select: Select, finish: Finish) -> None:
    """Add the wrappers to a MODEL that the caller has cloned. A second installation replaces the first."""
    if patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        LOG.warning("Sparse-vDiT: this model was patched before; the later node counts, the earlier one is ignored")
    for kind, wrapper in {WrappersMP.OUTER_SAMPLE: partial(_outer_sample, select, finish), **FORWARD_WRAPPERS}.items():
        patcher.remove_wrappers_with_key(kind, KEY)
        patcher.add_wrapper_with_key(kind, KEY, wrapper)
    callbacks = {
        CallbacksMP.ON_PRE_RUN: partial(_on_pre_run, select, finish),
        CallbacksMP.ON_PREPARE_STATE: _on_prepare_state,
        CallbacksMP.ON_CLEANUP: _on_cleanup,
    }
    for kind, callback in callbacks.items():
        patcher.remove_callbacks_with_key(kind, KEY)
        patcher.add_callback_with_key(kind, KEY, callback)


def _outer_sample(select: Select, finish: Finish, executor: object, *args: object, **kwargs: object) -> object:
    """The run's beginning and end. `executor.class_obj` is the guider, its model_options the run's own copy."""
    guider = executor.class_obj
    patcher, options = guider.model_patcher, guider.model_options.setdefault("transformer_options", {})
    given = {**dict(zip(OUTER_SAMPLE_ARGUMENTS, args, strict=False)), **kwargs}
    with opened(Sampled(patcher, select, finish, guider.model_options, first=True)) as sampled:
        policy = _policy(sampled, given)
        if isinstance(policy, Dense):
            finish(policy)  # before sampling: strict mode need not wait for a video to fail
            return executor(*args, **kwargs)
        with _override(options) as chained:
            run = sampled.run = _new_run(patcher, policy, options, chained)
            for copy in patcher.get_additional_models_with_key(MULTIGPU):
                sampled.others[copy.model] = _new_run(copy, policy, options, chained, run)
            try:
                with running(run):
                    result = executor(*args, **kwargs)
                    run.collect()
            finally:
                run.free()
    _end(run, finish)
    return result


def _policy(sampled: Sampled, given: Mapping) -> Policy | Dense:
    """What the patch node of a MODEL wants for what is about to be sampled."""
    patcher, options = sampled.patcher, sampled.model_options
    try:
        family = detect(patcher.model.diffusion_model)
        why = _why_dense(sampled, given["sigmas"]) or family
        return why if isinstance(why, Dense) else sampled.select(sampling_of(patcher, family, options, given))
    except Exception as error:
        return failed("looking at the model", error)


def _new_run(
    patcher: object, policy: Policy, options: dict, chained: Callable | None, first: Run | None = None
) -> Run:
    model = patcher.model.diffusion_model
    run = Run(policy, (undecorated(model_attention(model)), chained), first=first)
    run.device = str(patcher.load_device)
    run.watch = Watch(patcher, model, policy.shape[0], prepare_compiled(model, options, chained))
    run.try_kernels(partial(_target, patcher))
    return run


def _end(run: Run, finish: Finish) -> None:
    """Sampling ended without an error."""
    if len(run.together) > 1:
        run.stats.split = {each.device: each.stats.total().sparse for each in run.together}
        for other_run in run.together[1:]:
            run.stats.merge(other_run.stats)
    with run.guarded():
        verdict = run.watch.verdict(run.stats)
        if verdict is not None:
            run.stats.note(verdict)
    finish(run)


def _target(patcher: object) -> tuple[torch.device, torch.dtype]:
    """Device and dtype that a MODEL will compute on, as other nodes patched it: it is not loaded yet."""
    cast = patcher.get_model_object("manual_cast_dtype")
    return patcher.load_device, cast or patcher.model.get_dtype()


@contextmanager
def running(run: Run | None) -> Iterator[None]:
    """Make a run the current one, or none, for plain code and for compiled code."""
    try:
        with as_current(run):
            compile_op.set_sampling(run is not None)
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


def _why_dense(sampled: Sampled, sigmas: torch.Tensor) -> Dense | None:
    """Why the whole run stays dense, whatever the model is."""
    if len(sigmas) < 2:  # one level is the end of a step that another sampler has made
        return fallback.NO_STEPS
    if not sampled.first and sampled.patcher.get_additional_models_with_key(MULTIGPU):
        return fallback.SEVERAL_GPUS
    return why_dense_compiled(sampled.model_options)


def _apply_model(executor: object, x: torch.Tensor, t: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    """Around one forward, outside of compiled code, with the run of the model that computes it."""
    sampled = of_model(executor.class_obj)
    if sampled is None:
        with running(None):
            return executor(x, t, *args, **kwargs)
    options = args[3] if len(args) > 3 else kwargs.setdefault("transformer_options", {})
    known = sampled.first or CHAINED in options
    with nullcontext(options.get(CHAINED)) if known else _override(options) as chained:
        if not sampled.begun:
            _begin_other(sampled, options, chained, {**kwargs, "noise": x, "sigmas": options.get("sample_sigmas", t)})
        run = sampled.others.get(executor.class_obj, sampled.run)
        with running(run):
            if run is None:
                return executor(x, t, *args, **kwargs)
            return _in_run(run, options, executor, x, t, args, kwargs)


def _begin_other(sampled: Sampled, options: dict, chained: Callable | None, given: Mapping) -> None:
    """The first forward of a MODEL that is sampled beside the guider's first one."""
    sampled.begun = True
    policy = _policy(sampled, given)
    if isinstance(policy, Dense):
        sampled.finish(policy)
    else:
        sampled.run = _new_run(sampled.patcher, policy, options, chained)


def _in_run(
    run: Run, options: dict, executor: object, x: torch.Tensor, t: torch.Tensor, args: tuple, kwargs: dict
) -> torch.Tensor:
    """One forward of a run: decides about it, and repeats it dense when it went wrong."""
    run.options = options
    sigma = float(t.flatten()[0])
    run.begin_step(sigma)
    context = args[1] if len(args) > 1 else kwargs.get("c_crossattn")
    inputs = {**kwargs, "x": x, "context": context, "transformer_options": options}
    with run.guarded():
        _prepare(run, executor.class_obj.diffusion_model, inputs, x)
    run.begin_forward(x.device, sigma)

    def forward() -> torch.Tensor:
        with run.guarded():
            compile_op.forget_forward(x.device)
        return executor(x, t, *args, **kwargs)

    out = forward()
    stale = False
    with run.guarded():
        stale = run.watch.note_shapes({**kwargs, "": x}) and without_ours(run)
    if stale:
        compile_anew(run)
        run.begin_again()
        out = forward()
    if run.go_dense_where_spoiled():
        out = forward()
        run.end_repeated()
    with run.guarded():
        run.watch.forward(options, attention_override, run.stats.forward.calls())
    run.options = None
    run.forget_blocks()
    compile_op.forget_forward()
    return out


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


def _on_pre_run(select: Select, finish: Finish, patcher: object) -> None:
    """A MODEL is about to be sampled, by a guider's wrappers or by another MODEL's."""
    if not getattr(patcher, "is_multigpu_base_clone", False):  # whose run begins with the first GPU's
        open_other(patcher, select, finish)


def _on_prepare_state(patcher: object, timestep: object, model_options: dict) -> None:
    """Before forwards of a MODEL: adds our wrappers where those of another one are called."""
    sampled = other(patcher)
    if sampled is None:
        return
    sampled.model_options = model_options
    wrappers = model_options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    for kind, wrapper in FORWARD_WRAPPERS.items():
        of_kind = wrappers.setdefault(kind, {})
        if KEY not in of_kind:
            of_kind[KEY] = [wrapper]
            sampled.added.append(of_kind)


def _on_cleanup(patcher: object) -> None:
    """Sampling of a MODEL is over. A run of the guider's first one goes on to the end of `_outer_sample`."""
    sampled = close_other(patcher) or of_model(patcher.model)
    if sampled is None:
        return
    run = sampled.run
    if run is not None:
        run.collect()
        run.free()
    if sampled.first:
        return
    for of_kind in sampled.added:
        of_kind.pop(KEY, None)
    if sys.exc_info()[1] is not sampled.handled:  # this is the end of sampling that failed
        return
    if run is not None:
        _end(run, sampled.finish)
    elif not sampled.begun:
        sampled.finish(fallback.NOT_COMPUTED)


FORWARD_WRAPPERS = {WrappersMP.APPLY_MODEL: _apply_model, WrappersMP.DIFFUSION_MODEL: _diffusion_model}
