"""A run around ComfyUI's sampling: what it puts into the options and takes out again, and when it does not begin."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from comfyui_stand_ins import host_module
from dense_attention import model_attention
from model_stand_ins import AnimateWanModel, wan
from runs import (
    GRID,
    HEADS,
    Executor,
    attend,
    comfyui_attention,
    dense_calls,
    in_blocks,
    line,
    policy,
    qkv,
    sparse_calls,
)
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.fallback import Dense
from sparse_vdit.nodes.host.hooks import compile_op
from sparse_vdit.nodes.host.hooks.compile_op import CHAINED
from sparse_vdit.nodes.host.hooks.override import attention_override
from sparse_vdit.nodes.host.hooks.replaced import OVERRIDE
from sparse_vdit.nodes.host.session.run import Run, current_run
from torch import nn

install = host_module("hooks.install")
SIGMAS = torch.tensor([0.9, 0.5, 0.0])
LATENTS = torch.zeros(1, 16, GRID[0], 2 * GRID[1], 2 * GRID[2])


class Patcher:
    """ComfyUI's MODEL, as far as the pack asks it."""

    def __init__(self, model: nn.Module):
        self.model = SimpleNamespace(diffusion_model=model, get_dtype=lambda: torch.float32)
        self.load_device = torch.device("cpu")
        self.object_patches: dict = {}
        self.several_gpus = False
        self.added: list[tuple] = []

    def get_additional_models_with_key(self, key: str) -> list:
        return [self] if self.several_gpus and key == "multigpu" else []

    def get_model_object(self, name: str) -> object:
        return None if name == "manual_cast_dtype" else SimpleNamespace(percent_to_sigma=lambda percent: 1 - percent)

    def get_wrappers(self, kind: str, key: str) -> list:
        return [wrapper for *place, wrapper in self.added if place == [kind, key]]

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Callable) -> None:
        self.added.append((kind, key, wrapper))

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        self.added = [entry for entry in self.added if entry[:2] != (kind, key)]

    add_callback_with_key, remove_callbacks_with_key = add_wrapper_with_key, remove_wrappers_with_key


class Guider:
    """ComfyUI's guider, which samples two steps of a model through the pack's wrappers."""

    def __init__(self, model: nn.Module | None = None, **options: object):
        self.model_patcher = Patcher(model or wan(4, HEADS))
        self.model_options = {"transformer_options": options}
        self.outputs: list[torch.Tensor] = []
        self.x, self.sigmas = qkv(), SIGMAS

    @property
    def options(self) -> dict:
        return self.model_options["transformer_options"]

    def sample(self, select: Callable, finish: Callable, around: Callable | None = None) -> object:
        """`around` runs in the place of the sampler."""
        executor = Executor(around or self.steps, self)
        with comfyui_attention():
            return install._outer_sample(select, finish, executor, LATENTS, LATENTS, None, self.sigmas)

    def steps(self, *args: object) -> str:
        model = self.model_patcher.model.diffusion_model

        def apply(x: object, t: object, concat: None, context: object, control: None, options: dict) -> list:
            def forward(*args: object, transformer_options: dict) -> list:
                return in_blocks(model, transformer_options, lambda layer, given: attend(self.x, HEADS, given))

            return install._diffusion_model(
                Executor(forward, model), x, t, context, transformer_options=options.copy()
            )

        for sigma in self.sigmas[:-1]:
            executor = Executor(apply, self.model_patcher.model)
            given = LATENTS, sigma[None], None, torch.zeros(1, 7, 8), None, self.options.copy()  # one for each forward
            self.outputs += install._apply_model(executor, *given)
        return "sampled"


def test_a_run_lasts_as_long_as_its_sampling() -> None:
    guider, ended = Guider(kept="as it is"), []
    seen = []

    def around(*args: object) -> str:
        seen.append((current_run() is not None, compile_op.sampling(), guider.options[OVERRIDE] is attention_override))
        return guider.steps(*args)

    assert guider.sample(lambda sampling: policy(Diagonal(0), start=0.8), ended.append, around) == "sampled"
    assert seen == [(True, True, True)]
    (run,) = ended
    assert (sparse_calls(run), dense_calls(run)) == (4, {fallback.WARM_UP: 4})
    assert torch.equal(guider.outputs[0], model_attention(*guider.x, HEADS))
    assert not torch.equal(guider.outputs[4], guider.outputs[0])
    assert (current_run(), compile_op.sampling()) == (None, False)
    assert guider.options == {"kept": "as it is"}
    assert run.check.flags is None and not run.policy.bound._kept
    assert "replaced" not in line(run)


def test_what_is_about_to_be_sampled_is_known_before() -> None:
    guider, told = Guider(), []
    guider.sample(lambda sampling: told.append(sampling) or fallback.NO_PLAN, lambda run: None)
    (sampling,) = told
    assert sampling.sigmas == tuple(SIGMAS.tolist())
    assert (sampling.grid, sampling.family.name) == (GRID, "wan")
    assert sampling.percent_to_sigma(0.25) == 0.75


def compiled_by(**options: object) -> Guider:
    """A guider whose model is compiled."""
    guider = Guider(wrappers={"apply_model": {"torch.compile": [None]}})
    guider.model_options["torch_compile_kwargs"] = options
    return guider


def without_steps() -> Guider:
    """A guider whose sampler is given one noise level alone."""
    guider = Guider()
    guider.sigmas = SIGMAS[:1]
    return guider


def on_several_gpus() -> Guider:
    guider = Guider()
    guider.model_patcher.several_gpus = True
    return guider


@pytest.mark.parametrize(
    ("guider", "why"),
    [
        (Guider(AnimateWanModel()), "AnimateWanModel is a variant of Wan"),
        (on_several_gpus(), fallback.SEVERAL_GPUS.reason),
        (compiled_by(backend="cudagraphs"), fallback.CUDA_GRAPHS.reason),
        (compiled_by(backend="inductor", mode="reduce-overhead"), fallback.CUDA_GRAPHS.reason),
        (without_steps(), fallback.NO_STEPS.reason),
        (Guider(), fallback.NO_PLAN.reason),
    ],
)
def test_a_run_that_stays_dense_says_so_before_it_begins(guider: Guider, why: str) -> None:
    """Strict mode need not wait for a video to fail."""
    ended, before = [], dict(guider.options)

    def around(*args: object) -> str:
        assert ended and current_run() is None
        assert guider.options == before
        return "sampled"

    assert guider.sample(lambda sampling: fallback.NO_PLAN, ended.append, around) == "sampled"
    (found,) = ended
    assert isinstance(found, Dense) and why in found.reason


def test_a_sampling_that_fails_leaves_nothing_behind_and_is_not_reported() -> None:
    guider, ended = Guider(optimized_attention_override=model_attention), []
    made = policy(Diagonal(0))

    def around(*args: object) -> None:
        guider.steps(*args)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guider.sample(lambda sampling: made, ended.append, around)
    assert ended == [] and not made.bound._kept
    assert (current_run(), compile_op.sampling()) == (None, False)
    assert guider.options == {OVERRIDE: model_attention}


def plus_one(function: Callable, *args: object, **kwargs: object) -> torch.Tensor:
    return function(*args, **kwargs) + 1


def test_an_earlier_override_computes_what_is_dense_and_is_put_back() -> None:
    guider, ended = Guider(optimized_attention_override=plus_one), []
    guider.sample(lambda sampling: policy(Diagonal(0), start=0.8), ended.append)
    assert torch.equal(guider.outputs[0], model_attention(*guider.x, HEADS) + 1)
    assert guider.options == {OVERRIDE: plus_one}
    assert sparse_calls(ended[0]) == 4


def test_in_a_run_within_a_run_the_inner_one_counts_and_chains_the_same() -> None:
    outer, inner = [], []
    guider = Guider(optimized_attention_override=plus_one)

    def around(*args: object) -> str:
        assert guider.options[CHAINED] is plus_one
        result = guider.sample(lambda sampling: policy(Diagonal(0), start=0.8), inner.append)
        assert guider.options == {OVERRIDE: attention_override, CHAINED: plus_one}
        assert compile_op.sampling() and isinstance(current_run(), Run)
        return result

    guider.sample(lambda sampling: policy(Diagonal(0)), outer.append, around)
    assert (sparse_calls(inner[0]), sparse_calls(outer[0])) == (4, 0)
    assert torch.equal(guider.outputs[0], model_attention(*guider.x, HEADS) + 1)


def test_who_takes_attention_away_is_named() -> None:
    """Another node puts its own override into the options when sampling has begun."""
    guider, ended = Guider(), []

    def around(*args: object) -> str:
        guider.options[OVERRIDE] = plus_one
        return guider.steps(*args)

    guider.sample(lambda sampling: policy(Diagonal(0)), ended.append, around)
    assert f"attention was replaced by plus_one of {__name__}, nothing ran sparse" in line(ended[0])
    assert OVERRIDE not in guider.options


def test_a_second_installation_replaces_the_first(caplog: pytest.LogCaptureFixture) -> None:
    patcher = Patcher(wan(4, HEADS))
    for count in (0, 1):
        with caplog.at_level(logging.WARNING, logger="sparse_vdit"):
            install.install(patcher, lambda sampling: fallback.NO_PLAN, lambda run: None)
        assert caplog.text.count("the later node counts") == count
        kinds = [kind for kind, key, _ in patcher.added if key == "sparse_vdit"]
        callbacks = ["on_pre_run", "on_prepare_state", "on_cleanup"]
        assert kinds == ["outer_sample", "apply_model", "diffusion_model", *callbacks]
