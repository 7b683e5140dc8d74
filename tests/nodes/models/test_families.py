"""Model families without ComfyUI: told by structure, sequences from shapes."""

from __future__ import annotations

import pytest
import torch
from model_stand_ins import (
    GRID,
    TOKENS,
    AnimateWanModel,
    CameraWanModel,
    CogVideoXTransformer3DModel,
    HunyuanVideo,
    LTXAVModel,
    LTXVModel,
    MiniMaxH3Model,
    OddLTX,
    VaceWanModel,
    WanModel,
)
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.fallback import Dense
from sparse_vdit.nodes.host.models import (
    COGVIDEOX,
    FAMILIES,
    HUNYUAN_VIDEO,
    LTX,
    MINIMAX_H3,
    WAN,
    Family,
    describe,
    detect,
    token_grid,
)
from sparse_vdit.nodes.host.policies.profile import head_grams
from tolerances import assert_close
from torch import Tensor, nn


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
    assert detect(model) is family
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
        (nn.Linear(2, 2), "Linear is not a supported model"),
    ],
)
def test_what_is_no_family_says_why(model: nn.Module, says: str) -> None:
    why = detect(model)
    assert isinstance(why, Dense)
    assert says in why.reason


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, device="meta")


X = zeros(1, 16, 5, 13, 17)
TEXT = zeros(1, 11, 96)


@pytest.mark.parametrize(
    ("extra", "grid"),
    [
        ({}, (*GRID, 0, 0)),
        ({"x": zeros(2, 16, 5, 14, 18)}, (*GRID, 0, 0)),
        ({"time_dim_concat": zeros(1, 16, 2, 13, 17)}, (7, 7, 9, 0, 0)),
        ({"reference_latent": zeros(1, 16, 14, 18)}, (*GRID, 63, 0)),
        ({"context_latents": [zeros(1, 16, 1, 13, 17)]}, (*GRID, 0, 63)),
        ({"context_latents": [zeros(1, 16, 2, 7, 11)] * 2}, (*GRID, 0, 96)),
    ],
)
def test_wan_sequence(extra: dict, grid: tuple) -> None:
    assert token_grid(WanModel(ref_conv=nn.Identity()), WAN, {"x": X, "context": TEXT, **extra}) == grid


def test_wan_sequence_that_is_not_known() -> None:
    reference = {"x": X, "reference_latent": zeros(1, 16, 14, 18)}
    assert token_grid(WanModel(), WAN, reference) == (*GRID, 0, 0)  # no layer takes it
    assert "axes" in token_grid(WanModel(), WAN, {"x": zeros(1, 16, 16, 22)}).reason
    strange = {"x": X, "reference_latent": zeros(1, 16, 1, 14, 18)}
    assert "axes" in token_grid(WanModel(ref_conv=nn.Identity()), WAN, strange).reason
    talking = type("MultiTalkCrossAttnPatch", (), {})()
    options = {"patches": {"attn2_patch": [talking]}}
    assert "MultiTalkCrossAttnPatch" in token_grid(WanModel(), WAN, {"x": X, "transformer_options": options}).reason


@pytest.mark.parametrize(
    ("extra", "grid"),
    [
        ({}, (*GRID, 11, 0)),
        ({"ref_latent": zeros(1, 16, 1, 13, 18)}, (*GRID, 11 + 63, 0)),
        ({"txt_byt5": zeros(1, 4, 1472), "clip_fea": zeros(1, 6, 1152)}, (*GRID, 11 + 4 + 6, 0)),
        ({"guiding_frame_index": 0}, (*GRID, 11, 0)),
    ],
)
def test_hunyuan_video_sequence(extra: dict, grid: tuple) -> None:
    assert token_grid(HunyuanVideo(byt5=True), HUNYUAN_VIDEO, {"x": X, "context": TEXT, **extra}) == grid


def test_hunyuan_video_15_has_a_token_for_each_latent() -> None:
    inputs = {"x": zeros(1, 65, 5, 7, 9), "context": TEXT, "txt_byt5": zeros(1, 4, 1472)}
    assert token_grid(HunyuanVideo((1, 1, 1)), HUNYUAN_VIDEO, inputs) == (*GRID, 11, 0)  # no layer takes glyphs here
    assert token_grid(HunyuanVideo(), HUNYUAN_VIDEO, {"x": X}) == fallback.NO_TEXT


def test_cogvideox_sequence_with_odd_frames() -> None:
    inputs = {"x": zeros(1, 16, 9, 13, 17), "context": zeros(1, 226, 96)}
    assert token_grid(CogVideoXTransformer3DModel(2), COGVIDEOX, inputs) == (*GRID, 226, 0)
    assert token_grid(CogVideoXTransformer3DModel(), COGVIDEOX, inputs) == (9, 7, 9, 226, 0)


def test_minimax_h3_sequence_ends_with_the_video() -> None:
    inputs = {"x": [zeros(1, 24, 5, 13, 17), zeros(1, 32, 2, 11)], "context": TEXT}
    assert token_grid(MiniMaxH3Model(), MINIMAX_H3, inputs) == (*GRID, 11 + 22, 0)
    payload = {"cond_video_latents": [zeros(1, 24, 1, 14, 18)], "cond_audio_latents": [zeros(1, 32, 2, 3)]}
    conditioned = token_grid(MiniMaxH3Model(), MINIMAX_H3, {**inputs, "minimax_payload": payload})
    assert conditioned == (*GRID, 11 + 22 + 63 + 6, 0)
    assert "not one video and one sound" in token_grid(MiniMaxH3Model(), MINIMAX_H3, {"x": X, "context": TEXT}).reason


def test_ltx_sequence_with_guides_after_the_video() -> None:
    model, video = LTXAVModel(), zeros(1, 128, 5, 7, 9)
    assert token_grid(model, LTX, {"x": video, "context": TEXT}) == (*GRID, 0, 0)
    sound = {"x": [video, zeros(1, 8, 13, 16)], "context": TEXT}
    assert token_grid(model, LTX, sound) == (*GRID, 0, 0)
    assert token_grid(model, LTX, {**sound, "keyframe_idxs": zeros(1, 3, 63, 2)}) == (4, 7, 9, 0, 63)
    for strange in (
        {"keyframe_idxs": zeros(1, 3, 62, 2)},
        {"keyframe_idxs": zeros(1, 3, TOKENS, 2)},
        {"generated_keyframes": {}},
        {"context": zeros(1, TOKENS, 96)},
        {"x": [video, zeros(1, 8, TOKENS, 16)]},
        {"ref_audio": {"tokens": zeros(1, TOKENS - 13, 128)}},
    ):
        assert isinstance(token_grid(model, LTX, {**sound, **strange}), Dense), strange


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
    found = token_grid(WanModel(), WAN, {"x": X, "context": TEXT, **strange}).reason
    assert "not as the pack knows" in found or "axes" in found
    assert "KeyError" in token_grid(WanModel(), WAN, {}).reason


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


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_says_all_there_is_to_say(family: Family) -> None:
    assert [other.name for other in FAMILIES].count(family.name) == 1
    assert family.arguments[0] == "x" and "transformer_options" in family.arguments


def test_models_are_described_in_words() -> None:
    assert describe(HunyuanVideo(), HUNYUAN_VIDEO) == "hunyuan_video, 5 layers of 2 heads x 128"
