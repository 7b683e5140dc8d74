"""A model is told by its numbers: copies of it are the same, whatever rounded or patched them, and others are not."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from model_stand_ins import HunyuanVideo
from small_wan.model import SmallWan
from sparse_vdit.nodes.host.library.fingerprint import Fingerprint, fingerprint, read_fingerprint
from sparse_vdit.nodes.host.models import FAMILIES, WAN, Family

PLAIN = SimpleNamespace(backup={})
NORM = "blocks.1.self_attn.norm_q.weight"


def model(seed: int = 0, layers: int = 5) -> SmallWan:
    torch.manual_seed(seed)
    made = SmallWan(num_layers=layers)
    for name, parameter in made.named_parameters():
        if "norm_q" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    return made


def found(made: torch.nn.Module, patcher: object = PLAIN) -> Fingerprint:
    result = fingerprint(patcher, made, WAN)
    assert result is not None
    return result


ROUNDED = [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", ROUNDED, ids=str)
def test_copies_of_other_precision_are_the_same_model(dtype: torch.dtype) -> None:
    exact, copy = found(model()), found(model().to(dtype))
    assert exact.distance(copy) == copy.distance(exact) <= 1
    assert found(model(1)).distance(copy) > 1


@pytest.mark.parametrize(("change", "same"), [(1e-4, True), (0.02, False)])
def test_a_training_makes_another_model(change: float, same: bool) -> None:
    trained = model().to(torch.bfloat16)
    for parameter in trained.parameters():
        parameter.data *= 1 + change
    assert (found(model().to(torch.bfloat16)).distance(found(trained)) <= 1) == same


@pytest.mark.parametrize("kept_in", ["backup", "hook_backup"])
def test_what_loras_changed_in_place_is_read_as_it_was(kept_in: str) -> None:
    patched = model()
    before = dict(patched.named_parameters())[NORM].clone()
    keep = SimpleNamespace(weight=before) if kept_in == "backup" else (before, torch.device("cpu"))
    dict(patched.named_parameters())[NORM].data *= 3
    assert found(patched).distance(found(model())) > 1
    patcher = SimpleNamespace(**{"backup": {}, kept_in: {f"diffusion_model.{NORM}": keep}})
    assert found(patched, patcher) == found(model())


def test_quantised_layers_beside_do_not_matter() -> None:
    quantised = model()
    for module in quantised.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(module.weight.to(torch.int8), requires_grad=False)
    assert found(quantised) == found(model())


def test_text_and_back() -> None:
    one = found(model().to(torch.bfloat16))
    assert len(str(one)) <= 200  # what a plan's parameter may have
    assert read_fingerprint(str(one)) == one
    assert re.fullmatch("[0-9a-f]{8}", one.digest)
    assert one.digest != found(model(1)).digest
    text = str(one)
    numbers, nan = text.split()[1], f"bfloat16 {'7e00' * 40}"
    others = [f"{name} {numbers}" for name in ("float99", "float_power", "float4_e2m1fn_x2")]
    for broken in (None, 7, "", text[:-1], text + "0", *others, f"float {numbers}x", nan):
        assert read_fingerprint(broken) is None, broken


def test_models_without_such_tensors_have_none() -> None:
    assert fingerprint(PLAIN, HunyuanVideo(), WAN) is None
    counted = model()
    for block in counted.blocks:  # held as raw bytes, as some files of quantised models do
        block.modulation = torch.nn.Parameter(torch.zeros(1, 6, 384, dtype=torch.uint8), requires_grad=False)
        block.self_attn.norm_q = torch.nn.Identity()
    assert fingerprint(PLAIN, counted, WAN) is None
    for block in counted.blocks:  # two numbers in each byte
        packed = torch.zeros(1, 6, 384, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        block.modulation = torch.nn.Parameter(packed, requires_grad=False)
    assert fingerprint(PLAIN, counted, WAN) is None


NAMES = {
    "wan": ("blocks.3.modulation", "blocks.12.self_attn.norm_q.weight"),
    "hunyuan_video": (
        *("double_blocks.0.img_attn.norm.query_norm.weight", "single_blocks.39.norm.key_norm.scale"),
        *("double_blocks.7.img_attn.norm.key_norm.scale", "single_blocks.1.norm.query_norm.weight"),
    ),
    "cogvideox": ("blocks.0.norm_q.weight", "blocks.29.norm1.norm.weight"),
    "minimax_h3": ("blocks.3.attn.q_norm.weight", "blocks.11.norm1.weight"),
    "ltx": ("transformer_blocks.0.scale_shift_table", "transformer_blocks.47.attn1.q_norm.weight"),
}
"""Tensors that each pattern is meant for."""


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_says_which_tensors(family: Family) -> None:
    """By their whole names, of numbered blocks alone."""
    for name in NAMES[family.name]:
        assert re.fullmatch(family.unquantized, name), name
        for other in (f"x{name}", f"{name}.x", re.sub(r"\d+", "x", name), name.split(".", 1)[1]):
            assert not re.fullmatch(family.unquantized, other), other
