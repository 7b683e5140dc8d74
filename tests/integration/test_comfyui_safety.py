"""Runs in a real ComfyUI in which kernels fail, memory runs out, numbers are not finite or sparse is not faster: the
latents are those that dense attention gives wherever sparse attention gave none, and the report says so."""

from __future__ import annotations

import json

import pytest
import torch
from comfyui.plans import LAYERS, add_plan
from comfyui.prompts import base, ksampler, node, patched, profiled
from comfyui.results import counts, latents, new_log, relative_difference, report
from comfyui.server import PromptError, Server
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

STEPS = 4
SHORT = {"latent": node("EmptyHunyuanLatentVideo", width=176, height=128, length=9, batch_size=1)}


@pytest.fixture(scope="module", autouse=True)
def untroubled(server: Server) -> torch.Tensor:
    """Latents of the sparse workflow before any trouble."""
    add_plan(server, "sparse", Diagonal(0))
    return latents(server, patched("sparse", start_percent=0.0))


def with_node(kind: str, steps: int = STEPS, options: dict | None = None, **inputs: object) -> dict:
    """The sparse workflow with a node of the test pack after the patch node."""
    prompt = patched("sparse", steps, **{"start_percent": 0.0, **(options or {})})
    prompt["test"] = node(kind, model=("patch", 0), **inputs)
    prompt["sampler"]["inputs"]["model"] = ["test", 0]
    return prompt


def test_a_kernel_that_fails_costs_no_more_than_its_speed(server: Server, plain: torch.Tensor) -> None:
    """Fails at its very first call: the run is the dense one, bit for bit, and the kernel was not tried again."""
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    result = latents(server, with_node("TestTroubleInKernel", trouble="error", first=0, last=9999))
    assert torch.equal(result, plain)
    line = report(server, before)
    assert "layer 0: the sparse kernel failed (RuntimeError: kernel trouble was asked for)" in line
    assert "Not faster here: a sparse kernel failed. Try another backend" in line
    assert counts(line)[0] == 0
    assert "TroubleInKernel: 1 sparse calls" in new_log(server, before)


def test_memory_that_runs_out_in_the_middle_leaves_the_rest_dense(server: Server, plain: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    result = latents(server, with_node("TestTroubleInKernel", trouble="out of memory", first=LAYERS + 1, last=9999))
    line = report(server, before)
    sparse, dense = counts(line)
    assert sparse == LAYERS + 1
    assert dense in (STEPS * LAYERS - sparse, 2 * STEPS * LAYERS - sparse)
    assert f"{fallback.OUT_OF_MEMORY} {dense}" in line
    assert "layer 1: memory ran out in sparse attention" in line
    assert 0 < relative_difference(result, plain) < 0.5
    again = latents(server, patched("sparse", start_percent=0.0))  # the next run is whole again
    assert counts(report(server, before))[1] == 0
    assert not torch.equal(again, result)


def test_a_forward_that_is_not_finite_is_computed_again_dense(server: Server, plain: torch.Tensor) -> None:
    """The run stays dense from there, and its report names layer and head: bit for bit the dense video."""
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    result = latents(server, with_node("TestTroubleInKernel", trouble="not finite", first=2, last=2))
    assert torch.equal(result, plain)
    line = report(server, before)
    assert "layer 2, head 1" in line
    assert "this forward was computed again dense, and all that followed ran dense" in line
    assert counts(line)[0] == 0
    assert f"Not faster here: {fallback.NOT_FINITE.sentence}. {fallback.NOT_FINITE.advice}" in line
    assert f"TroubleInKernel: {LAYERS} sparse calls" in new_log(server, before)


def test_what_was_finite_before_stays_sparse(server: Server, plain: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    good = latents(server, patched("sparse", start_percent=0.0))
    before = len(server.log_text())
    result = latents(server, with_node("TestTroubleInKernel", trouble="not finite", first=LAYERS + 1, last=LAYERS + 1))
    line = report(server, before)
    sparse, dense = counts(line)
    assert sparse == LAYERS and f"{fallback.NOT_FINITE} {dense}" in line and "layer 1, head 1" in line
    assert torch.isfinite(result).all()
    assert 0 < relative_difference(result, plain) < relative_difference(good, plain)


@pytest.mark.parametrize("first", ["cache", "patch"])
def test_a_repeated_forward_never_leaves_its_numbers_in_a_cache(server: Server, first: str) -> None:
    """EasyCache keeps what a forward changed, and sees the one that is thrown away too."""
    add_plan(server, "sparse", Diagonal(0))
    prompt = with_node("TestTroubleInKernel", trouble="not finite", first=2, last=2)
    cache = {"reuse_threshold": 0.2, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    source = "model" if first == "cache" else "patch"
    prompt["cache"] = node("EasyCache", model=(source, 0), **cache)
    prompt["patch" if first == "cache" else "test"]["inputs"]["model"] = ["cache", 0]
    before = len(server.log_text())
    result = latents(server, prompt)
    assert "layer 2, head 1" in report(server, before)
    assert torch.isfinite(result).all()
    assert result.std() > 0.1


def test_slower_than_dense_stays_dense_and_the_next_run_knows(server: Server, plain: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    for timed in (3, 0):
        before = len(server.log_text())
        options = {"start_percent": 0.3, "only_if_faster": True}
        result = latents(server, with_node("TestTimesGiven", options=options, dense=10.0, exact=9.7))
        assert torch.equal(result, plain)
        line = report(server, before)
        assert counts(line)[0] == 0
        assert "9.70 ms sparse and 10.00 ms dense" in line
        assert f"Not faster here: {fallback.NOT_FASTER.sentence}. {fallback.NOT_FASTER.advice}" in line
        assert f"dense, {timed} exact" in new_log(server, before)


def test_faster_than_dense_runs_the_plan(server: Server) -> None:
    """Another length, which is another place; without a warm-up, so that dense is timed beside sparse."""
    add_plan(server, "sparse", Diagonal(0))
    options = {"start_percent": 0.0, "only_if_faster": True}
    before = len(server.log_text())
    raced = latents(server, {**with_node("TestTimesGiven", options=options, dense=10.0, exact=1.0), **SHORT})
    assert counts(report(server, before))[1] == 0
    assert "timed 3 dense" in new_log(server, before)
    assert torch.equal(raced, latents(server, {**patched("sparse", start_percent=0.0), **SHORT}))


def test_a_named_backend_is_obeyed_without_timing(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    options = {"backend": "torch", "only_if_faster": True}
    latents(server, with_node("TestTimesGiven", options=options, dense=1.0, exact=50.0))
    assert counts(report(server, before))[1] == 0
    assert "timed 0 dense" in new_log(server, before)


def test_old_workflows_without_the_new_inputs_still_run(server: Server) -> None:
    prompt = patched("sparse")
    for name in ("only_if_faster", "verbose"):
        prompt["patch"]["inputs"].pop(name, None)
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    assert torch.isfinite(latents(server, prompt)).all()
    assert sum(counts(report(server, before))) in (STEPS * LAYERS, 2 * STEPS * LAYERS)


def test_the_report_names_family_grid_and_plan(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    latents(server, patched("sparse"))
    assert "). 4 calls dense: dense start. wan, plan user/sparse, 5x8x11 tokens: " in report(server, before)


def test_details_on_request_are_in_the_log_and_in_a_new_file_each_time(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    files = []
    for _ in range(2):
        before = len(server.log_text())
        latents(server, patched("sparse", verbose=True, start_percent=0.3))
        line = report(server, before)
        path = line.split("details in ")[1].strip()
        assert path.startswith(str(server.base / "output" / "sparse_vdit"))
        files.append(path)
        with open(path) as file:
            detail = json.load(file)
        assert json.dumps(detail) in new_log(server, before)
        sparse, dense = counts(line)
        assert (detail["sparse"], detail["dense"][fallback.WARM_UP.reason]) == (sparse, dense)
        assert sum(forward["sparse"] for forward in detail["forwards"]) == sparse
        assert sum(layer.get("sparse", 0) for layer in detail["layers"].values()) == sparse
        assert detail["bands"][0]["patterns"] == [["diagonal"] * 3] * LAYERS
        density = detail["bands"][0]["densities"]["5x8x11"][0][0]
        assert density == pytest.approx(detail["mean_density"], abs=1e-4)
        assert detail["devices"] == {"cpu": sparse}
        assert sum(detail["backends"].values()) == sparse
        assert detail["milliseconds"]["exact"] > 0
    assert len(set(files)) == 2


def recorded(prompt: dict, plant: bool = False) -> dict:
    """The workflow with the stand-in for ComfyUI's graph recorder around its forwards."""
    prompt["recorded"] = node("TestRecordedForward", model=("model", 0), plant=plant)
    if "patch" in prompt:
        prompt["patch"]["inputs"]["model"] = ["recorded", 0]
    else:
        prompt["guider"]["inputs"]["model"] = ["recorded", 0]
    return prompt


@pytest.mark.parametrize("only_if_faster", [False, True])
def test_runs_keep_the_memory_rules(server: Server, only_if_faster: bool) -> None:
    """Real model and loader; the recorder is a stand-in."""
    add_plan(server, "sparse", Diagonal(0))
    truth = latents(server, {**patched("sparse", start_percent=0.3), **SHORT})
    before = len(server.log_text())
    options = {"start_percent": 0.3, "only_if_faster": only_if_faster}
    prompt = recorded(with_node("TestTimesGiven", options=options, dense=10.0, exact=1.0))
    result = latents(server, {**prompt, **SHORT})
    assert "RecordedForward" in new_log(server, before)
    assert torch.equal(result, truth)
    with pytest.raises(PromptError, match="malloc graph broken"):
        latents(server, recorded(patched("sparse", start_percent=0.3), plant=True))


def test_profiling_keeps_the_memory_rules(server: Server) -> None:
    before = len(server.log_text())
    for flow in ({"flow": "dense"}, {"flow": "sequential", "flow.lam": 0.5, "flow.epsilon": 1.0}):
        result = latents(server, {**base(), **recorded(profiled(flow, steps=2))}, "profile")
        assert torch.isfinite(result).all()
    assert "RecordedForward" in new_log(server, before)


def test_runs_after_all_that_trouble_are_as_good_as_new(
    server: Server, plain: torch.Tensor, untroubled: torch.Tensor
) -> None:
    assert torch.equal(latents(server, {**base(), "sampler": ksampler(("model", 0), STEPS)}), plain)
    before = len(server.log_text())
    assert torch.equal(latents(server, patched("sparse", start_percent=0.0)), untroubled)
    assert counts(report(server, before))[1] == 0
