"""Model families without ComfyUI: told by structure, sequences from shapes, blocks by number, masks on text alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sparse_vdit.kernels.patterns import Diagonal, Skip
from sparse_vdit.nodes.host import reasons
from sparse_vdit.nodes.host.blocks import COUNT, LAYER, SEEN, number_blocks, take_layer
from sparse_vdit.nodes.host.current import pop_run, push_run
from sparse_vdit.nodes.host.engine import Call
from sparse_vdit.nodes.host.families import (
    COGVIDEOX,
    FAMILIES,
    HUNYUAN_VIDEO,
    LTX,
    MINIMAX_H3,
    WAN,
    Family,
    detect,
    read_layout,
)
from sparse_vdit.nodes.host.families.table import families_table
from sparse_vdit.nodes.host.plan_engine import PlanEngine
from sparse_vdit.nodes.host.profile_engine import head_grams
from sparse_vdit.nodes.host.run import Run
from sparse_vdit.nodes.host.text_mask import is_key_mask, text_bias
from sparse_vdit.plans.plan import uniform_plan
from tolerances import assert_close
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
GRID = (5, 7, 9)
TOKENS = 5 * 7 * 9


def blocks(count: int) -> nn.ModuleList:
    return nn.ModuleList([nn.Identity() for _ in range(count)])


class WanModel(nn.Module):
    """The structure of ComfyUI's model that detection looks at; so are the others below."""

    def __init__(self, patch_size: tuple = (1, 2, 2), ref_conv: object = None):
        super().__init__()
        self.patch_size, self.ref_conv, self.num_heads, self.dim = patch_size, ref_conv, 3, 384
        self.blocks = blocks(4)


class VaceWanModel(WanModel):
    pass


class CameraWanModel(WanModel):
    pass


class AnimateWanModel(WanModel):
    pass


class HunyuanVideo(nn.Module):
    def __init__(self, patch_size: tuple = (1, 2, 2), byt5: bool = False):
        super().__init__()
        self.patch_size, self.num_heads, self.hidden_size, self.txt_in = list(patch_size), 2, 256, nn.Identity()
        self.double_blocks, self.single_blocks = blocks(2), blocks(3)
        self.byt5_in = nn.Identity() if byt5 else None


class CogVideoXTransformer3DModel(nn.Module):
    def __init__(self, patch_size_t: int | None = None):
        super().__init__()
        self.patch_size, self.patch_size_t, self.num_attention_heads, self.attention_head_dim = 2, patch_size_t, 2, 64
        self.blocks = blocks(3)


class MiniMaxH3Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_size, self.blocks = (1, 2, 2), blocks(3)
        for block in self.blocks:
            block.attn = nn.Identity()
            block.attn.heads, block.attn.head_dim = 2, 128


class LTXBaseModel(nn.Module):
    def __init__(self, patch: int = 1):
        super().__init__()
        self.patchifier, self.num_attention_heads, self.attention_head_dim = nn.Identity(), 2, 64
        self.patchifier.patch_size, self.transformer_blocks = (1, patch, patch), blocks(3)


class LTXVModel(LTXBaseModel):
    pass


class LTXAVModel(LTXVModel):
    pass


class OddLTX(LTXBaseModel):
    pass


@pytest.mark.parametrize(
    ("model", "family", "shape"),
    [
        (WanModel(), WAN, (4, 3, 128)),
        (VaceWanModel(), WAN, (4, 3, 128)),
        (CameraWanModel(), WAN, (4, 3, 128)),
        (HunyuanVideo(), HUNYUAN_VIDEO, (5, 2, 128)),
        (HunyuanVideo((1, 1, 1)), HUNYUAN_VIDEO, (5, 2, 128)),
        (CogVideoXTransformer3DModel(), COGVIDEOX, (3, 2, 64)),
        (CogVideoXTransformer3DModel(2), COGVIDEOX, (3, 2, 64)),
        (MiniMaxH3Model(), MINIMAX_H3, (3, 2, 128)),
        (LTXVModel(), LTX, (3, 2, 64)),
        (LTXAVModel(), LTX, (3, 2, 64)),
    ],
)
def test_a_family_is_told_by_structure(model: nn.Module, family: Family, shape: tuple) -> None:
    assert detect(model) == (family, None)
    assert family.shape(model) == shape
    assert sum(count for _, count in family.blocks(model)) == shape[0]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (AnimateWanModel(), "AnimateWanModel is a variant of Wan"),
        (WanModel((1, 1, 1)), "patches of (1, 1, 1)"),
        (HunyuanVideo((2, 2)), "patches of (2, 2)"),  # images
        (LTXVModel(2), "patches of (1, 2, 2)"),
        (OddLTX(), "OddLTX is a variant of LTX"),
        (type("MyCog", (CogVideoXTransformer3DModel,), {})(), "MyCog is a variant of CogVideoX"),
        (type("MyHunyuan", (HunyuanVideo,), {})(), "MyHunyuan is a variant of HunyuanVideo"),
        (type("MyH3", (MiniMaxH3Model,), {})(), "MyH3 is a variant of MiniMax H3"),
        (type("WanModel", (nn.Module,), {"patch_size": (1, 2, 2)})(), "WanModel without blocks, num_heads, dim"),
        (type("HunyuanVideo", (nn.Module,), {"patch_size": (1, 2, 2)})(), "without double_blocks, single_blocks"),
        (nn.Linear(2, 2), "Linear is no model the pack knows"),
    ],
)
def test_what_is_no_family_says_why(model: nn.Module, says: str) -> None:
    family, reason = detect(model)
    assert family is None
    assert says in reason


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, device="meta")


X = zeros(1, 16, 5, 13, 17)
TEXT = zeros(1, 11, 96)


@pytest.mark.parametrize(
    ("extra", "layout"),
    [
        ({}, (*GRID, 0, 0)),
        ({"x": zeros(2, 16, 5, 14, 18)}, (*GRID, 0, 0)),
        ({"time_dim_concat": zeros(1, 16, 2, 13, 17)}, (7, 7, 9, 0, 0)),
        ({"reference_latent": zeros(1, 16, 14, 18)}, (*GRID, 63, 0)),
        ({"context_latents": [zeros(1, 16, 1, 13, 17)]}, (*GRID, 0, 63)),
        ({"context_latents": [zeros(1, 16, 2, 7, 11)] * 2}, (*GRID, 0, 96)),
    ],
)
def test_wan_sequence(extra: dict, layout: tuple) -> None:
    assert WAN.layout(WanModel(ref_conv=nn.Identity()), {"x": X, "context": TEXT, **extra}) == layout


def test_wan_sequence_that_is_not_known() -> None:
    reference = {"x": X, "reference_latent": zeros(1, 16, 14, 18)}
    assert WAN.layout(WanModel(), reference) == (*GRID, 0, 0)  # no layer takes it
    assert "axes" in WAN.layout(WanModel(), {"x": zeros(1, 16, 16, 22)})
    strange = {"x": X, "reference_latent": zeros(1, 16, 1, 14, 18)}
    assert "axes" in WAN.layout(WanModel(ref_conv=nn.Identity()), strange)
    talking = type("MultiTalkCrossAttnPatch", (), {})()
    options = {"patches": {"attn2_patch": [talking]}}
    assert "MultiTalkCrossAttnPatch" in WAN.layout(WanModel(), {"x": X, "transformer_options": options})


@pytest.mark.parametrize(
    ("extra", "layout"),
    [
        ({}, (*GRID, 11, 0)),
        ({"ref_latent": zeros(1, 16, 1, 13, 18)}, (*GRID, 11 + 63, 0)),
        ({"txt_byt5": zeros(1, 4, 1472), "clip_fea": zeros(1, 6, 1152)}, (*GRID, 11 + 4 + 6, 0)),
        ({"guiding_frame_index": 0}, (*GRID, 11, 0)),
    ],
)
def test_hunyuan_video_sequence(extra: dict, layout: tuple) -> None:
    assert HUNYUAN_VIDEO.layout(HunyuanVideo(byt5=True), {"x": X, "context": TEXT, **extra}) == layout


def test_hunyuan_video_15_has_a_token_for_each_latent() -> None:
    inputs = {"x": zeros(1, 65, 5, 7, 9), "context": TEXT, "txt_byt5": zeros(1, 4, 1472)}
    assert HUNYUAN_VIDEO.layout(HunyuanVideo((1, 1, 1)), inputs) == (*GRID, 11, 0)  # no layer takes glyphs here
    assert HUNYUAN_VIDEO.layout(HunyuanVideo(), {"x": X}) == reasons.NO_TEXT


def test_cogvideox_sequence_with_odd_frames() -> None:
    inputs = {"x": zeros(1, 16, 9, 13, 17), "context": zeros(1, 226, 96)}
    assert COGVIDEOX.layout(CogVideoXTransformer3DModel(2), inputs) == (*GRID, 226, 0)
    assert COGVIDEOX.layout(CogVideoXTransformer3DModel(), inputs) == (9, 7, 9, 226, 0)


def test_minimax_h3_sequence_ends_with_the_video() -> None:
    inputs = {"x": [zeros(1, 24, 5, 13, 17), zeros(1, 32, 2, 11)], "context": TEXT}
    assert MINIMAX_H3.layout(MiniMaxH3Model(), inputs) == (*GRID, 11 + 22, 0)
    payload = {"cond_video_latents": [zeros(1, 24, 1, 14, 18)], "cond_audio_latents": [zeros(1, 32, 2, 3)]}
    assert MINIMAX_H3.layout(MiniMaxH3Model(), {**inputs, "minimax_payload": payload}) == (*GRID, 11 + 22 + 63 + 6, 0)
    assert "not one video and one sound" in MINIMAX_H3.layout(MiniMaxH3Model(), {"x": X, "context": TEXT})


def test_ltx_sequence_with_guides_after_the_video() -> None:
    model, video = LTXAVModel(), zeros(1, 128, 5, 7, 9)
    assert LTX.layout(model, {"x": video, "context": TEXT}) == (*GRID, 0, 0)
    sound = {"x": [video, zeros(1, 8, 13, 16)], "context": TEXT}
    assert LTX.layout(model, sound) == (*GRID, 0, 0)
    assert LTX.layout(model, {**sound, "keyframe_idxs": zeros(1, 3, 63, 2)}) == (4, 7, 9, 0, 63)
    for strange in (
        {"keyframe_idxs": zeros(1, 3, 62, 2)},
        {"keyframe_idxs": zeros(1, 3, TOKENS, 2)},
        {"generated_keyframes": {}},
        {"context": zeros(1, TOKENS, 96)},
        {"x": [video, zeros(1, 8, TOKENS, 16)]},
        {"ref_audio": {"tokens": zeros(1, TOKENS - 13, 128)}},
    ):
        assert isinstance(LTX.layout(model, {**sound, **strange}), str), strange


@pytest.mark.parametrize(
    "strange",
    [
        {"time_dim_concat": 3},
        {"context_latents": [zeros(4)]},
        {"context_latents": 5},
        {"transformer_options": {"patches": 1}},
        {"x": None},
    ],
)
def test_arguments_of_another_form_are_a_reason_and_no_error(strange: dict) -> None:
    found = read_layout(WanModel(), WAN, {"x": X, "context": TEXT, **strange})
    assert "not as the pack knows" in found or "axes" in found
    assert "KeyError" in read_layout(WanModel(), WAN, {})


@pytest.fixture
def run() -> Iterator[Run]:
    """A current run on the fakes' Hunyuan."""
    plan = uniform_plan("hunyuan_video", 5, 2, 128, GRID, Diagonal(0))
    made = Run(PlanEngine(plan, 1.0, 0.0, "torch"), None)
    made.reason = made.engine.reason(0.5)
    push_run(made)
    yield made
    pop_run(made)


def walk(options: dict, names: list[tuple[str, int]], call: object) -> None:
    """Run blocks as ComfyUI's models do: through what has replaced them."""
    for name in names:
        options["patches_replace"]["dit"][name](
            {"transformer_options": options, "img": None}, {"original_block": lambda args: call(args)}
        )


@pytest.mark.parametrize("with_run", [True, False])
def test_blocks_are_numbered_through_their_sections(run: Run, with_run: bool) -> None:
    if not with_run:
        pop_run(run)
    options = {}
    for _ in range(2):  # a second time, as by a node that repeats the forward: ours lies around it once
        number_blocks(options, HUNYUAN_VIDEO, HunyuanVideo())
        found = []
        names = [*(("double_block", n) for n in range(2)), *(("single_block", n) for n in range(3))]
        walk(options, names, lambda args, found=found: found.append(take_layer(args["transformer_options"])))
        assert found == [0, 1, 2, 3, 4]
        assert take_layer(options) is None and LAYER not in options
        assert all(patch.args[1] is None for patch in options["patches_replace"]["dit"].values())


def test_another_nodes_block_patch_is_still_called_and_its_dict_left_alone() -> None:
    called = []

    def patch(args: dict, extra: dict) -> dict:
        called.append(args["transformer_options"][LAYER])
        return extra["original_block"](args)

    theirs = {"dit": {("double_block", 1): patch}, "other": 1}
    options = {"patches_replace": theirs}
    number_blocks(options, WAN, WanModel())
    walk(options, [("double_block", n) for n in range(4)], lambda args: {})
    assert called == [1]
    assert theirs == {"dit": {("double_block", 1): patch}, "other": 1}
    assert options["patches_replace"]["other"] == 1


def test_a_block_that_fails_leaves_no_number(run: Run) -> None:
    options = {}
    number_blocks(options, WAN, WanModel())
    with pytest.raises(ZeroDivisionError):
        walk(options, [("double_block", 2)], lambda args: 1 // 0)
    assert LAYER not in options and run.at_work.layer is None


@pytest.mark.parametrize("with_run", [True, False])
def test_counted_blocks_begin_anew_with_each_forward(run: Run, with_run: bool) -> None:
    if not with_run:
        pop_run(run)
    options = {}
    for _ in range(2):
        number_blocks(options, COGVIDEOX, CogVideoXTransformer3DModel())
        copy = dict(options)
        assert [take_layer(copy if n else options) for n in range(3)] == [0, 1, 2]  # a shallow copy counts along
        if with_run:
            assert [run.at_work.take_layer(7) for _ in range(3)] == [0, 1, 2]
    assert options[COUNT] == [3]
    assert not options[SEEN]


def qkv() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(2, TOKENS + 11, 2, 128, generator=generator) for _ in range(3)]


def test_a_block_number_that_does_not_rise_is_not_trusted(run: Run) -> None:
    layout = (*GRID, 11, 0)
    run.begin_forward(torch.device("cpu"))
    assert run.attend(Call(1, layout, *qkv())) is not None
    for layer, reason in ((1, reasons.BLOCK_ORDER), (0, reasons.BLOCK_ORDER), (None, reasons.NO_LAYER)):
        assert run.attend(Call(layer, layout, *qkv())) is None
        assert run.ledger.dense.pop(reason) == 1
    assert run.attend(Call(7, layout, *qkv())) is None
    assert run.ledger.dense == {reasons.NO_LAYER: 1}
    run.begin_forward(torch.device("cpu"))
    assert run.attend(Call(0, layout, *qkv())) is not None


@pytest.mark.parametrize(
    ("shape", "dtype", "good"),
    [
        ((1, 1, 326), torch.float32, True),
        ((2, 1, 1, 326), torch.bool, True),
        ((1, 326), torch.float32, False),  # ComfyUI reads two axes as queries and keys
        ((1, 1, 325), torch.float32, False),
        ((3, 1, 326), torch.float32, False),
        ((1, 326, 326), torch.float32, False),
        ((1, 2, 1, 326), torch.float32, False),
        ((1, 1, 326), torch.int64, False),
    ],
)
def test_masks_that_are_the_same_for_all_queries(shape: tuple, dtype: torch.dtype, good: bool) -> None:
    assert is_key_mask(torch.zeros(shape, dtype=dtype), 2, 326) == good


def test_only_masks_on_text_become_a_bias() -> None:
    layout, known = (*GRID, 8, 3), {}
    mask = torch.zeros(1, 1, TOKENS + 11)
    mask[..., 5:8], mask[..., -1] = torch.finfo(torch.float32).min, -2.0
    bias = text_bias(known, mask, layout, 2)
    assert bias.tolist() == [[*[0.0] * 5, *[torch.finfo(torch.float32).min] * 3, 0.0, 0.0, -2.0]] * 2
    assert text_bias(known, mask, layout, 2) is bias
    for column in (8, 8 + TOKENS - 1):
        spoiled = mask.clone()
        spoiled[..., column] = 1e-3
        assert text_bias(known, spoiled, layout, 2) == reasons.MASKED
    hidden = torch.ones(2, 1, 1, TOKENS + 11, dtype=torch.bool)
    hidden[1, ..., :2] = False
    assert text_bias(known, hidden, layout, 2).isneginf().sum(1).tolist() == [0, 2]
    hidden[1, ..., 100] = False
    assert text_bias({}, hidden, layout, 2) == reasons.MASKED


def test_masked_text_is_hidden_from_every_query(run: Run) -> None:
    """What hidden keys hold must not matter, and without the mask it does."""
    layout = (*GRID, 11, 0)
    q, k, v = qkv()
    mask = torch.zeros(1, 1, TOKENS + 11)
    mask[..., 6:11] = torch.finfo(torch.float32).min
    outputs = []
    for scale in (1.0, 100.0):
        other = v.clone()
        other[:, 6:11] *= scale
        outputs.append([run.attend(Call(0, layout, q, k, other, m)) for m in (mask, None)])
    assert_close(outputs[0][0], outputs[1][0])
    assert not torch.allclose(outputs[0][1], outputs[1][1], atol=1e-2)
    mask[..., 50] = -1.0
    run.biases.clear()
    assert run.attend(Call(0, layout, q, k, v, mask)) is None
    assert run.ledger.dense == {reasons.MASKED: 1}


def test_masked_text_under_skipped_heads_stays_dense() -> None:
    """Their text attends all; but a plan may not hide what some query needs."""
    grid = (4, 8, 8)
    made = Run(PlanEngine(uniform_plan("x", 1, 2, 128, grid, Skip()), 1.0, 0.0, "torch"), None)
    made.reason = made.engine.reason(0.5)
    q, k, v = (x[:, : 256 + 8] for x in qkv())
    out = made.attend(Call(0, (*grid, 8, 0), q, k, v, torch.zeros(1, 1, 264)))
    assert (out is None) == bool(made.ledger.dense)  # sparse or refused with its reason, never an error


class Linears(nn.Module):
    """A Hunyuan single block's last layer, and a double block's."""

    def __init__(self):
        super().__init__()
        self.linear2, self.mlp_hidden_dim = nn.Linear(256 + 40, 24), 40
        self.img_attn = nn.Identity()
        self.img_attn.proj = nn.Linear(256, 24)


@torch.inference_mode()
def test_hunyuan_video_output_matrices() -> None:
    """Of single blocks only the columns that attention goes through."""
    model = HunyuanVideo()
    model.double_blocks, model.single_blocks = (nn.ModuleList([Linears() for _ in range(2)]) for _ in range(2))
    q = torch.randn(1, 3, 2, 128)
    cases = ((1, model.double_blocks[1].img_attn.proj.weight), (3, model.single_blocks[1].linear2.weight[:, :256]))
    for layer, weight in cases:
        grams = head_grams(HUNYUAN_VIDEO.output(model, layer), q)
        for head in range(2):
            columns = weight[:, 128 * head : 128 * (head + 1)].double()
            assert_close(grams[head], columns.T @ columns)


def test_the_readmes_table_is_current() -> None:
    assert f"<!-- table: families -->\n{families_table()}\n<!-- end -->" in (ROOT / "README.md").read_text()
    assert not any(name == "comfy" or name.startswith("comfy.") for name in sys.modules)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_says_all_there_is_to_say(family: Family) -> None:
    assert family.models and family.order.count("video") >= 1
    assert family.arguments[0] == "x" and "transformer_options" in family.arguments
