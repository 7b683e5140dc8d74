"""The benchmark of whole models, without ComfyUI: what follows from measured forwards, its plans, its override."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from load_pack import ROOT
from PIL import Image
from sparse_vdit.kernels.grid import TokenGrid
from tolerances import RELATIVE_L2, relative_l2

sys.path.append(str(ROOT / "benchmarks"))
import comfyui_models
import end_to_end
import end_to_end_tables
import error_methods
import pack_methods
import result_files
import results
import whole_costs
import whole_methods
import whole_targets
from end_to_end_figure import draw
from kernel_cases import Case, random_qkv
from kernel_shapes import Shape, build_lists
from projections import compare
from whole_models import MODELS, TINY
from whole_targets import Target


def row(method: str, seconds: float, model: str = "wan14b_480p", **more: object) -> dict:
    return {"model": model, "method": method, "seconds_per_forward": seconds, "peak_bytes": 1000, **more}


def test_generations_are_sums_of_forwards() -> None:
    rows = [
        row("sdpa_flash", 5.0), row("sdpa_cudnn", 4.0), row("no_attention", 1.0), row("kitchen_int8", 3.0),
        row("ours_bf16", 2.0, peak_bytes=1030), row("comfyui_compiled", 0.5), {"model": "wan14b_480p", "method": "sage",
        "skipped": "not here"},
    ]  # fmt: skip
    compare(rows, MODELS)
    found = {row["method"]: row for row in rows}
    ours = found["ours_bf16"]
    assert ours["attention_share"] == 0.5 and ours["speedup"] == 2.0 and ours["extra_peak_fraction"] == 0.03
    # 50 steps of two forwards, 10 of them by cuDNN or in 8 bits; 4 steps of one, the first by cuDNN
    assert ours["many_seconds"] == 2 * (10 * 4 + 40 * 2) and ours["many_speedup"] == round(200 / 120, 4)
    assert ours["many_8_bits_seconds"] == 2 * (10 * 3 + 40 * 2) and ours["few_seconds"] == 4 + 3 * 2
    assert found["sdpa_flash"]["many_seconds"] == 500 and found["sdpa_flash"]["few_speedup"] == 0.8
    assert found["kitchen_int8"]["many_seconds"] == 300
    assert "speedup" not in found["no_attention"] and "speedup" not in found["sage"]


def test_without_a_warm_up_all_steps_are_sparse() -> None:
    rows = [row("sdpa_flash", 4.0, "cogvideox15"), row("ours_bf16", 1.0, "cogvideox15")]
    compare(rows, MODELS)
    assert rows[1]["many_speedup"] == 4.0 and rows[1]["many_seconds"] == 2 * 50
    assert "attention_share" not in rows[1] and "many_8_bits_seconds" not in rows[1]


def test_models_are_compared_with_their_own_rows_alone() -> None:
    rows = [row("sdpa_flash", 4.0), row("sdpa_flash", 2.0, "hunyuan_720p"), row("ours_int8", 1.0, "hunyuan_720p")]
    compare(rows, MODELS)
    assert rows[2]["speedup"] == 2.0 and rows[2]["many_seconds"] == 1 * (10 * 2 + 40 * 1)


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


def test_what_a_call_takes_is_estimated() -> None:
    flops = {name: whole_costs.forward_flops(model) for name, model in MODELS.items()}
    # 14 billion weights of which those for text are seen by few tokens; 4 x 75600^2 x 5120 x 40 of attention
    assert flops["wan14b_720p"][0] == pytest.approx(2 * 12e9 * 75600, rel=0.01)
    assert flops["wan14b_720p"][1] == pytest.approx(4.68e15, rel=0.01)
    assert {name: whole_costs.tokens_of(model) for name, model in MODELS.items()} == {
        "wan1_3b_480p": 32760, "wan14b_480p": 32760, "cogvideox15": 11 * 48 * 85 + 226, "wan1_3b_720p": 75600,
        "wan14b_720p": 75600, "hunyuan15_720p": 31 * 45 * 80 + 256, "hunyuan_720p": 33 * 45 * 80 + 256,
    }  # fmt: skip
    model = MODELS["wan14b_720p"]
    first, later = (whole_costs.method_seconds(model, "ours_bf16", "0.25", again) for again in (False, True))
    assert first == 2 * later < 2 * whole_costs.method_seconds(model, "sdpa_flash", None, False)
    two = [("sdpa_flash", None), ("sage", None)]
    told = whole_costs.estimate({"wan14b_720p": (model, two), "tiny_wan": (model, [])})
    assert "2 rows" in told and "tiny_wan" not in told and "in one call" in told


def test_a_method_needs_as_many_dense_forwards_as_it_may_take() -> None:
    needed = {name: end_to_end.most_seconds(method, 10.0) for name, method in whole_methods.METHODS.items()}
    assert needed["kitchen_int8"] == 10 and needed["ours_int8"] == 20 and needed["ours_sampler"] == 50
    assert needed["ours_bf16_compiled"] == 20 + whole_costs.COMPILING


def test_plans_are_measured_where_they_belong() -> None:
    found = end_to_end.jobs(MODELS["wan14b_480p"], list(whole_methods.METHODS), ["shipped", "0.2"])
    assert found[0] == (whole_methods.REFERENCE, None)
    assert [plan for name, plan in found if name == "ours_int8"] == ["shipped", "0.2"]
    assert ("ours_sampler", "0.25") in found and ("ours_bf16_compiled", "0.25") in found
    others = end_to_end.jobs(MODELS["hunyuan_720p"], list(whole_methods.METHODS), [])
    assert not any(name.endswith("_compiled") for name, _ in others)


ROWS = [
    row("sdpa_flash", 4.0, rel_l2=0.0, first_call_seconds=5.0), row("no_attention", 1.0),
    row("ours_bf16", 2.0, plan="0.25", density=0.2512, rel_l2=0.0123, first_call_seconds=7.5),
    {"model": "wan14b_480p", "method": "sage", "skipped": "no sage"},
    {"model": "wan14b_480p", "method": "ours_sampler", "steps": 4, "sampler_seconds": 9.0, "report": "all sparse"},
]  # fmt: skip


def result(rows: list[dict]) -> dict:
    compare(rows, MODELS | TINY)
    return {"rows": rows, "command": "python x.py", "device": "some GPU", "date": "2026-01-01"}


def test_tables_and_picture_of_rows(tmp_path: Path) -> None:
    table = end_to_end_tables.forwards_table(result([dict(row) for row in ROWS]))
    ours = next(line for line in table.splitlines() if "ours_bf16" in line)
    assert ours == (
        "| wan14b_480p | ours_bf16 | 0.25 | 0.25 | 2.000 | 50% | 2.00 | 240 (1.67x) | - | 10.0 (1.60x) | +0.0% | "
        "1.2e-02 | 7.5 |"
    )
    assert "sage (wan14b_480p): no sage" in table and "some GPU" in table and "mean nothing" not in table
    assert "| 4 | 9.0 | all sparse |" in end_to_end_tables.sampler_table(result([dict(row) for row in ROWS]))
    draw(result([dict(row) for row in ROWS])["rows"], tmp_path / "bars.png")
    assert Image.open(tmp_path / "bars.png").height > 60


def test_tables_of_toys_say_that_they_are_toys() -> None:
    toys = [{**row, "model": "tiny_wan"} for row in ROWS]
    for table in (end_to_end_tables.forwards_table, end_to_end_tables.sampler_table):
        assert table(result(toys)).startswith(end_to_end_tables.TOYS)
        assert table(None) == end_to_end_tables.NOT_YET


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "cpu"], "--device cpu goes with --tiny alone"),
        (["--device", "cpu", "--tiny", "--models", "wan14b_480p"], "--models wan14b_480p goes without --tiny"),
        (["--device", "cpu", "--tiny", "--plans", "1.5"], "--plans 1.5 is neither shipped nor a density"),
        (["--device", "cpu", "--tiny", "--plans", "best"], "--plans best is neither shipped nor a density"),
        (["--device", "cpu", "--tiny", "--continue", "nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_arguments_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, options: list[str], says: str
) -> None:
    monkeypatch.setattr(end_to_end, "comfyui_path", lambda: ROOT)
    monkeypatch.setattr(sys, "argv", ["end_to_end.py", *options])
    with pytest.raises(SystemExit, match="2"):
        end_to_end.arguments()
    assert says in capsys.readouterr().err.strip().splitlines()[-1]


def test_rows_for_which_no_time_was_left_are_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "end_to_end-x.json"
    late = {"model": "a", "method": "sage", "skipped": result_files.NO_TIME}
    file.write_text(json.dumps({"benchmark": "end_to_end", "rows": [*ROWS, late]}))
    assert result_files.kept_rows(file, "end_to_end") == ROWS and result_files.kept_rows(None, "end_to_end") == []
    with pytest.raises(ValueError, match="is of end_to_end, not of calibrated_heads"):
        result_files.kept_rows(file, "calibrated_heads")


def test_results_of_several_calls_make_one_table() -> None:
    def of(number: int, device: str, *models: str) -> dict:
        rows = [{"model": model, "number": number} for model in models]
        return {"device": device, "command": f"run {number}", "date": "today", "rows": rows}

    late = {"model": "a", "number": 3, "skipped": result_files.NO_TIME}
    found = [of(0, "old", "a", "z"), of(1, "new", "a", "b"), of(2, "new", "b", "c"), of(3, "new", "d")]
    found[3]["rows"].append(late)
    whole = result_files.latest_of_each(found, "model")
    assert [(row["model"], row["number"]) for row in whole["rows"]] == [("a", 1), ("b", 2), ("c", 2), ("d", 3)]
    assert all(f"run {number}" in result_files.made_by(whole) for number in (1, 2, 3))
    assert "run 0" not in result_files.made_by(whole)
    nothing = {**of(4, "new"), "rows": [late]}
    assert result_files.latest_of_each([nothing], "model") is nothing and not result_files.latest_of_each([], "model")


def test_a_run_that_is_stopped_while_it_writes_leaves_the_rows_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    file = tmp_path / results.save_results("end_to_end", [{"model": "a"}])
    monkeypatch.setattr(Path, "replace", lambda *paths: sys.exit("stopped"))
    with pytest.raises(SystemExit):
        results.save_results("end_to_end", [{"model": "b"}])
    assert result_files.kept_rows(file, "end_to_end") == [{"model": "a"}]


def test_the_commit_of_a_copy_is_told_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMIT", "0123abcd")
    assert results.commit() == "0123abcd"
    monkeypatch.delenv("COMMIT")
    monkeypatch.setattr(results.shutil, "which", lambda name: None)
    assert results.commit() == ""
