"""Who took attention away, told from what lies where, without ComfyUI."""

from __future__ import annotations

import functools
import sys
from types import SimpleNamespace

import pytest
import torch
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.fallback import Dense
from sparse_vdit.nodes.host.core.stats import RunStats
from sparse_vdit.nodes.host.hooks.own_attention import COMFYUI_ATTENTION, model_attention
from sparse_vdit.nodes.host.hooks.replaced import SOMEBODY, Watch, named
from torch import nn


def sage(q: object) -> object:
    return q


class Sage:
    def attention(self, q: object) -> object:
        return q


@pytest.mark.parametrize(
    ("module", "where"),
    [
        ("/home/me/ComfyUI/custom_nodes/ComfyUI-KJNodes.nodes.model_optimization_nodes", "ComfyUI-KJNodes"),
        ("C:\\ComfyUI\\custom_nodes\\odd name (1)", "odd name (1)"),
        ("/x/custom_nodes/pack_x_v2", "pack.v2"),
        ("comfy_extras.nodes_sparse_attention", "comfy_extras.nodes_sparse_attention"),
    ],
)
def test_functions_are_named_by_their_pack(monkeypatch: pytest.MonkeyPatch, module: str, where: str) -> None:
    monkeypatch.setattr(sage, "__module__", module)
    monkeypatch.setattr(Sage, "__module__", module)
    monkeypatch.setattr(Sage.attention, "__module__", module)
    assert named(sage) == named(functools.partial(sage, 1)) == f"sage of {where}"
    assert named(Sage().attention) == f"Sage.attention of {where}"
    assert named(Sage()) == f"Sage of {where}"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A model whose module calls ComfyUI's attention by a name of its own."""
    module = SimpleNamespace(optimized_attention=sage)
    monkeypatch.setitem(sys.modules, "comfy_model", module)
    monkeypatch.setattr(sage, "__module__", COMFYUI_ATTENTION)
    made = type("Model", (nn.Module,), {"__module__": "comfy_model"})()
    assert model_attention(made) is sage
    return made


def slot(override: object, **more: object) -> dict:
    """transformer_options of a forward."""
    return {"optimized_attention_override": override, **more}


def watch(model: nn.Module, **patches: object) -> Watch:
    inside = {key.replace("__", "."): value for key, value in patches.items()}
    return Watch(SimpleNamespace(object_patches=inside), model, 4)


def stats(layers: int, sparse: int = 0, dense: Dense = fallback.WARM_UP) -> RunStats:
    """Of a run that was asked about calls of so many layers; the others of them are dense."""
    made = RunStats()
    for layer in range(layers):
        made.forward.reached[layer] += 1
        if layer < sparse:
            made.count_sparse(layer, 0.3, "torch", torch.device("cpu"))
        else:
            made.count_dense(dense, layer)
    return made


def test_a_run_that_reaches_the_pack_has_no_verdict(model: nn.Module) -> None:
    seen = watch(model, diffusion_model__blocks__0__forward=Sage().attention)  # a patch that still calls attention
    assert seen.verdict(stats(0)) is None  # no forward at all
    seen.forward(slot(sage), sage, 4)
    seen.forward(slot(sage), sage, 0)  # a step from a cache
    assert seen.verdict(stats(4, 4)) is None
    assert seen.verdict(stats(4)) is None  # warm-up


@pytest.mark.parametrize(
    ("patches", "who"),
    [
        ({}, SOMEBODY),
        ({"model_sampling": Sage()}, SOMEBODY),
        ({"diffusion_model__blocks__0__self_attn__forward": Sage().attention}, f"Sage.attention of {__name__}"),
    ],
)
def test_missing_calls_are_explained_by_object_patches(model: nn.Module, patches: dict, who: str) -> None:
    seen = watch(model, **patches)
    seen.forward(slot(sage), sage, 0)
    assert f"replaced by {who}, nothing ran sparse" in seen.verdict(stats(0))
    assert f"{who} replaced the attention of 1 of 4 blocks" in seen.verdict(stats(3, 3))


def test_another_function_in_the_models_module_is_named(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sage, "__module__", "/x/custom_nodes/radial")
    seen = watch(model)
    seen.forward(slot(sage), sage, 0)
    assert "replaced by sage of radial" in seen.verdict(stats(0))


def test_blocks_that_another_node_runs_are_named(model: nn.Module) -> None:
    seen = watch(model)
    seen.forward(slot(sage, patches_replace={"dit": {("double_block", 0): Sage().attention}}), sage, 3)
    assert f"Sage.attention of {__name__} replaced the attention of 1 of 4 blocks" in seen.verdict(stats(3, 3))


def test_what_came_on_top_is_named_where_calls_are_missing(model: nn.Module) -> None:
    declines, takes = watch(model), watch(model)
    declines.forward(slot(Sage()), sage, 4)
    assert declines.verdict(stats(4, 4)) is None
    takes.forward(slot(Sage()), sage, 1)
    assert f"replaced by Sage of {__name__}, nothing" in takes.verdict(stats(1))
    assert "came on top" in takes.verdict(stats(4, 4))


def test_shapes_are_new_once(model: nn.Module) -> None:
    """Of compiled models, whose code is made anew for them."""
    inputs = {"x": torch.zeros(1, 2), "context": torch.zeros(3), "options": {}}
    for compiled in (False, True):
        seen = Watch(SimpleNamespace(), model, 4, compiled)
        longer = {**inputs, "context": torch.zeros(4)}
        new = [seen.note_shapes(given) for given in (inputs, inputs, longer)]
        assert new == [compiled, False, compiled]


def test_blocks_that_cannot_be_told_apart_accuse_nobody(model: nn.Module) -> None:
    """LTX-2 compiled as a whole: every call comes with the same number."""
    seen, found = watch(model), RunStats()
    seen.forward(slot(sage), sage, 0)
    for why in (fallback.WARM_UP, fallback.BLOCK_ORDER):
        for _ in range(3):
            found.forward.reached[0] += 1
            found.count_dense(why, 0)
        accused = "attention was replaced by" in (seen.verdict(found) or "")
        assert accused == (why == fallback.WARM_UP)


def test_calls_that_the_run_was_not_asked_about_accuse_nobody(model: nn.Module) -> None:
    """The pack itself refused them for what they are, such as another number of tokens."""
    seen, found = watch(model), stats(3, 3)
    seen.forward(slot(sage), sage, 3)
    assert seen.verdict(found) is not None
    found.count_dense(fallback.OTHER_TOKENS, 3)
    assert seen.verdict(found) is None
