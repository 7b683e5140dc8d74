"""Other nodes that take attention away from the pack, in a real ComfyUI: detected, named, and never made worse."""

from __future__ import annotations

import re

import pytest
import torch
from comfyui.compositions import STEPS, Composition, Reference, with_plan, workflow
from comfyui.plans import LAYERS, add_plan
from comfyui.prompts import node
from comfyui.recording import record_small_wan
from comfyui.results import counts, latents, new_log, report
from comfyui.server import PromptError, Server
from sparse_vdit.kernels.patterns import Diagonal

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

BLOCKS = node("TestObjectPatchedAttention", blocks=LAYERS)
MODULE = node("TestModulePatchedAttention")
LOOP = node("TestOwnLoop")
SPARSE_OF_CORE = node("TestModelSparseAttention", min_tokens=64)

TAKEN = [
    (Composition("attention as object patches before", before=(BLOCKS,)), "_own_forward.frugal_forward of test_pack"),
    (Composition("attention as object patches after", after=(BLOCKS,)), "_own_forward.frugal_forward of test_pack"),
    (Composition("attention function replaced before", before=(MODULE,)), "_monkey_attention of test_pack"),
    (Composition("attention function replaced after", after=(MODULE,)), "_monkey_attention of test_pack"),
    (Composition("a loop of its own before", before=(LOOP,)), "own_loop of test_pack"),
    (Composition("a loop of its own after", after=(LOOP,)), "own_loop of test_pack"),
    (Composition("Model Sparse Attention takes all, before", before=(SPARSE_OF_CORE,)), "sol_attention of"),
    (Composition("Model Sparse Attention takes all, after", after=(SPARSE_OF_CORE,)), "sol_attention of"),
]


@pytest.fixture(scope="module")
def reference(server: Server) -> Reference:
    return Reference(server)


@pytest.mark.parametrize(("composition", "who"), TAKEN, ids=lambda value: getattr(value, "name", ""))
def test_taken_attention_is_named_and_left_alone(
    server: Server, reference: Reference, composition: Composition, who: str
) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    result = latents(server, with_plan(composition, "sparse"))
    log, line = new_log(server, before), report(server, before)
    assert torch.equal(result, reference.plain(composition))
    assert counts(line)[0] == 0, line
    assert re.search(rf"attention was replaced by \S*{who}.*nothing ran sparse", line), line
    assert "[WARNING]" in next(text for text in log.splitlines() if line[-40:] in text)
    on_top = re.search(r"on top (\d+) times", log)
    assert on_top is None or int(on_top[1]) == 2, log  # by its node and before the first step, not before each
    says = re.search(r"attention was replaced by .*?(?=;|$)", line)[0]
    record_small_wan(composition.label, counts(line), sparse=0.0, says=says)


def test_strict_names_who_took_attention(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    with pytest.raises(PromptError, match=r"replaced by _own_forward\.frugal_forward of test_pack"):
        latents(server, with_plan(TAKEN[0][0], "sparse", strict=True))


def test_some_blocks_taken_the_others_run_sparse(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    half = node("TestObjectPatchedAttention", blocks=LAYERS // 2)
    composition = Composition("half", after=(half,))
    result, line = latents(server, with_plan(composition, "sparse")), report(server, before)
    assert counts(line) == ((STEPS - 1) * LAYERS // 2, LAYERS // 2)
    assert f"frugal_forward of test_pack replaced the attention of {LAYERS // 2} of {LAYERS} blocks" in line
    assert not torch.equal(result, latents(server, workflow(composition, None)))


@pytest.mark.parametrize("side", ["before", "after"])
def test_model_sparse_attention_that_declines_is_chained_once(server: Server, side: str) -> None:
    """It goes on top twice, by its node and before the first step, and never again; the pack runs below it."""
    add_plan(server, "sparse", Diagonal(0))
    declines = Composition("declines", **{side: (node("TestModelSparseAttention", min_tokens=12288),)})
    before = len(server.log_text())
    latents(server, with_plan(declines, "sparse"))
    assert "on top 2 times" in new_log(server, before)
    line = report(server, before)
    assert counts(line) == ((STEPS - 1) * LAYERS, LAYERS)
    assert "replaced" not in line
