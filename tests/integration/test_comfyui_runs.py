"""Runs that go wrong, are compiled or meet other nodes, in a real ComfyUI: nothing stays behind, nothing is silent."""

from __future__ import annotations

import pytest
import torch
from comfyui.plans import LAYERS, add_plan
from comfyui.prompts import base, ksampler, node, patch, patched
from comfyui.recording import record_small_wan
from comfyui.results import counts, latents, relative_difference, report
from comfyui.server import PromptError, Server
from sparse_vdit.kernels.patterns import Dense, Diagonal
from tolerances import SAMPLED

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

STEPS = 4


def with_trouble(trouble: str) -> dict:
    """The sparse workflow, with a node that makes trouble in the second step."""
    prompt = patched("sparse", start_percent=0.0)
    prompt["trouble"] = node("TestTroubleAtStep", model=("patch", 0), trouble=trouble)
    prompt["sampler"]["inputs"]["model"] = ["trouble", 0]
    return prompt


def test_a_run_that_fails_leaves_nothing_behind(server: Server, plain: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    good = latents(server, patched("sparse"))
    with pytest.raises(PromptError, match="trouble was asked for"):
        latents(server, with_trouble("raise"))
    assert torch.equal(latents(server, {**base(), "sampler": ksampler(("model", 0), STEPS)}), plain)
    assert torch.equal(latents(server, patched("sparse")), good)


def test_an_interrupted_run_leaves_nothing_behind(server: Server, plain: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    good = latents(server, patched("sparse"))
    before = len(server.log_text())

    def interrupt_sampling() -> None:
        if "1/400" in server.log_text()[before:]:
            server.post("/interrupt")

    with pytest.raises(PromptError, match=r'execution_interrupted.*"node_id": "sampler"'):
        server.run({**patched("sparse", steps=400), **saved()}, while_running=interrupt_sampling)
    assert torch.equal(latents(server, {**base(), "sampler": ksampler(("model", 0), STEPS)}), plain)
    before = len(server.log_text())
    assert torch.equal(latents(server, patched("sparse")), good)
    calls = counts(report(server, before))
    record_small_wan("interrupted in the middle, then queued again", calls, sparse=relative_difference(good, plain))


def saved() -> dict:
    """An output, without which ComfyUI runs nothing."""
    return {"save": node("SaveLatent", samples=("sampler", 0), filename_prefix="latents/test")}


def test_an_attention_that_replaces_ours_is_reported(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    latents(server, with_trouble("replace"))
    assert "marked_attention of test_pack came on top" in report(server, before)


def test_a_preset_beside_a_plan_is_reported_as_ignored(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    latents(server, patched("sparse", preset="fast"))
    assert "preset fast ignored, a plan is connected" in report(server, before)


def compiled(prompt: dict, source: str, backend: str = "inductor") -> dict:
    """The workflow with its model compiled before sampling."""
    prompt["compiled"] = node("TorchCompileModel", model=(source, 0), backend=backend)
    prompt["sampler"]["inputs"]["model"] = ["compiled", 0]
    return prompt


def test_a_model_compiled_for_cuda_graphs_runs_dense_and_says_why(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    with pytest.raises(PromptError, match="compiled with CUDA graphs"):
        latents(server, compiled(patched("sparse", strict=True), "patch", "cudagraphs"))
    assert "CUDA graphs" in report(server, before)


@pytest.mark.slow
def test_a_compiled_model_follows_the_plan_of_each_run(server: Server, plain: torch.Tensor) -> None:
    """Compiled code outlives a workflow: each plan, and none, must give what it gives without compilation."""
    add_plan(server, "sparse", Diagonal(0))
    add_plan(server, "other", Diagonal(1))
    add_plan(server, "dense", Dense())
    for name in ("sparse", "other", "dense"):
        eager = latents(server, patched(name))
        before = len(server.log_text())
        result = latents(server, compiled(patched(name), "patch"))
        difference = relative_difference(result, eager)
        assert difference <= SAMPLED, name
        sparse, dense = counts(report(server, before))
        workflow = f"TorchCompileModel after, queued again with a plan: {name}"
        record_small_wan(workflow, (sparse, dense), uncompiled=difference)
        assert sparse + dense in (STEPS * LAYERS, 2 * STEPS * LAYERS), name
        assert (sparse > 0) == (name != "dense")
    before = len(server.log_text())
    causal = {**base("causal.safetensors"), "patch": patch(), "sampler": ksampler(("patch", 0), 2)}
    latents(server, compiled(causal, "patch"))
    assert "Not faster here: CausalWanModel" in report(server, before)
    unpatched = compiled({**base(), "sampler": ksampler(("model", 0), STEPS)}, "model")
    assert relative_difference(latents(server, unpatched), plain) <= SAMPLED
