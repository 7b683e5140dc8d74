"""Attention methods of the whole-model benchmark, without ComfyUI: plans, overrides, and what is called of others."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
from load_pack import ROOT
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.plans.plan.files import load_plan
from tolerances import RELATIVE_L2, relative_l2

from benchmarks.kernels.kernel_cases import Case, random_qkv
from benchmarks.kernels.kernel_shapes import Shape, build_lists
from benchmarks.models import comfyui_models, pack_methods, whole_methods, whole_targets
from benchmarks.models.whole_targets import Target
from benchmarks.quality import error_methods


@pytest.mark.parametrize("wanted", [0.15, 0.25, 0.35])
def test_synthetic_plans_have_their_density_and_differ_by_layer(wanted: float) -> None:
    layout = (7, 22, 40, 37, 0)
    plan = pack_methods.synthetic_plan("wan", (3, 12, 128), layout, wanted)
    assert plan.density(TokenGrid(*layout)) == pytest.approx(wanted, abs=0.03)
    rows = plan.bands[0].heads
    assert len({*rows}) == 3 and len({tuple(sorted(row)) for row in rows}) == 1
    assert len({*rows[0]}) > 3  # of several patterns, as searched plans are


class Anything:
    def __init__(self, **fields: object):
        self.__dict__.update(fields)


@pytest.mark.parametrize(("name", "part"), [("hunyuanvideo_t2v", 0.3), ("hunyuanvideo_i2v", 0.0)])
def test_steps_that_a_shipped_plan_says_nothing_of_are_counted(name: str, part: float) -> None:
    """On HunyuanVideo's schedule, a flow of shift 7: windows were measured from step 15 of 50 on."""
    def level(percent: float) -> float:
        return 1e9 if percent <= 0 else 7 * (1 - percent) / (1 + 6 * (1 - percent))

    sampling = Anything(percent_to_sigma=level, sigma_max=torch.tensor(1.0))
    patcher = Anything(get_model_object=lambda name: sampling)
    plan = load_plan(ROOT / "plans" / "hunyuan_video" / f"{name}.balanced.json")
    assert pack_methods.dense_part(plan, patcher, 50) == part


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("out_by_head", [False, True])
def test_the_override_takes_and_gives_comfyuis_layouts(by_head: bool, out_by_head: bool) -> None:
    generator, heads, calls = torch.Generator().manual_seed(3), 3, []
    x = [torch.randn(2, 65, heads, 16, generator=generator) for _ in range(3)]
    given = [part.transpose(1, 2) if by_head else part.flatten(2) for part in x]
    target = Anything(
        tokens=65, calls=calls, device=torch.device("cpu"), patcher=Anything(model_options={"transformer_options": {}})
    )
    whole_methods.METHODS["sdpa_flash"].attach(target)
    function = target.patcher.model_options["transformer_options"]["optimized_attention_override"]
    out = function(None, *given, heads, skip_reshape=by_head, skip_output_reshape=out_by_head)
    weights = torch.einsum("bqhd,bkhd->bhqk", x[0], x[1]).mul(16**-0.5).softmax(-1)
    truth = torch.einsum("bhqk,bkhd->bqhd", weights, x[2])
    truth = truth.transpose(1, 2) if out_by_head else truth.flatten(2)
    assert out.shape == truth.shape and relative_l2(out, truth) < RELATIVE_L2[torch.float32]
    assert len(calls) == 1


def test_calls_that_are_no_plain_self_attention_are_the_models_own() -> None:
    left = Counter()

    def own(q: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        left["calls"] += 1
        return q

    target = Anything(tokens=9, calls=[])
    function = whole_targets.override(lambda q, k, v: v, target, everywhere=False)
    video, text = torch.randn(1, 9, 4), torch.randn(1, 5, 4)
    function(own, video, text, text, 2)  # cross-attention
    function(own, text, text, text, 2)  # of the text with itself
    function(own, video, video, video, 2, mask=torch.ones(9))
    function(own, video, video, video, 2, scale=1.0)
    assert left["calls"] == 4 and not target.calls
    value = torch.randn(1, 9, 4)
    assert torch.equal(function(own, video, video, value, 2), value) and target.calls == [None]


def test_a_method_that_leaves_attention_dense_is_refused() -> None:
    target = Anything(tokens=9, patcher=Anything(model_options={"transformer_options": {}}))
    whole_targets.refuse(target)
    function = target.patcher.model_options["transformer_options"]["optimized_attention_override"]
    video, text = torch.randn(1, 9, 4), torch.randn(1, 5, 4)
    assert function(lambda q, *others, **more: q, video, text, text, 2, mask=None) is video
    with pytest.raises(whole_targets.MissingError, match="left self-attention"):
        function(None, video, video, video, 2, mask=torch.ones(9))


def kitchen_with_sol() -> object:
    kitchen = pytest.importorskip("comfy_kitchen", reason="COMFY-KITCHEN IS NOT INSTALLED: its calls were not tried")
    return kitchen if hasattr(kitchen, "sol_attn") else pytest.skip("this comfy-kitchen has no sol_attn")


@pytest.mark.parametrize("grid", [TokenGrid(7, 13, 17, prefix=5, suffix=3), TokenGrid(7, 13, 17, suffix=30)])
def test_comfy_kitchen_takes_our_calls(grid: TokenGrid) -> None:
    """Its eager kernel, which a CPU runs: names of arguments and layouts."""
    attend = kitchen_with_sol().sol_attn
    shape = Shape(grid, 2, 128)
    lists, mixes, routed = build_lists(shape, (1.0, 0.4))
    qkv = random_qkv(shape, torch.device("cpu"), torch.bfloat16)
    case = Case(*qkv, lists, mixes[0.4], routed[1], mixes[1.0][0])
    for name in ("kitchen_sol_topk", "kitchen_sol_topk_bricks", "kitchen_sol_topk_extra", "kitchen_sol_1.0_bricks"):
        run, finish = error_methods.CHOSEN[name].make(case)
        assert case.error(finish(run()), "dense") < 0.9  # zeros or another order have at least 1
    patcher, layout = Anything(model_options={"transformer_options": {}}), (*grid.shape, grid.prefix, grid.suffix)
    target = Target(patcher, None, torch.device("cpu"), None, layout)
    whole_methods._kernel_of_core(target, attend, tau=1.0)
    function = patcher.model_options["transformer_options"]["optimized_attention_override"]
    by_head = function(None, *(x.transpose(1, 2) for x in qkv), 2, skip_reshape=True, skip_output_reshape=True)
    assert torch.equal(by_head.transpose(1, 2).flatten(2), function(None, *(x.flatten(2) for x in qkv), 2))


@pytest.mark.parametrize("there", [True, False])
def test_comfyuis_node_is_called_as_it_is_declared(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """A stand-in with the arguments of ComfyUI 0.38's Model Sparse Attention; without it, the kernel, which is said."""
    found = {}

    class BlockSparseAttention:
        @classmethod
        def execute(cls, model, selection, start_percent, end_percent, dense_blocks="", min_tokens=1, extra_tokens=0):
            found.update(selection, window=(start_percent, end_percent), tokens=(min_tokens, extra_tokens))
            return Anything(result=(("patched", model),))

    kitchen = Anything(sol_attn=lambda *qkv, **settings: None, sol_attn_is_available=lambda device: True)
    monkeypatch.setitem(sys.modules, "comfy_kitchen", kitchen)
    node = Anything(BlockSparseAttention=BlockSparseAttention) if there else None
    monkeypatch.setitem(sys.modules, "comfy_extras", Anything(__path__=[]))
    monkeypatch.setitem(sys.modules, "comfy_extras.nodes_sparse_attention", node)
    patcher = Anything(model_options={"transformer_options": {}}, model=Anything(diffusion_model=None))
    target = Target(patcher, None, "cpu", Anything(shape=lambda model: (2, 3, 128)), (2, 3, 4, 0, 0))
    whole_methods.METHODS["core_sla_10"].attach(target)
    if there:
        assert target.patcher == ("patched", patcher) and not target.counted and target.note is None
        assert found == {"selection": "sla", "keep_percent": 10.0, "window": (0.0, 1.0), "tokens": (0, 256)}
    else:
        assert target.patcher is patcher and target.counted and "the node could not be had" in target.note


def test_models_are_cut_down_for_a_while() -> None:
    model = torch.nn.Module()
    model.double_blocks = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    model.single_blocks = torch.nn.ModuleList()
    whole = model.double_blocks
    with pytest.raises(KeyError), comfyui_models.first_blocks_alone(model):
        assert list(model.double_blocks) == [whole[0]] and len(model.single_blocks) == 0
        raise KeyError
    assert model.double_blocks is whole and len(whole) == 3
