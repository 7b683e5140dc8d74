"""A ComfyUI that keeps models from one workflow to the next, as it does by default: nothing of a run stays on them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from comfyui.compositions import STEPS, Composition, with_plan, workflow
from comfyui.fixtures import with_models
from comfyui.installation import comfyui_path
from comfyui.plans import LAYERS, add_plan
from comfyui.prompts import ksampler, node
from comfyui.results import counts, latents, new_log, relative_difference
from comfyui.server import Server
from sparse_vdit.kernels.patterns import Dense, Diagonal
from tolerances import SAMPLED, SAMPLED_DENSE

pytestmark = pytest.mark.comfyui

BARE = Composition("bare")
MARKED = node("TestMarkedAttention")
COMPILED = node("TestCompileModel", backend="aot_eager")
COUNTS = ((STEPS - 1) * LAYERS, LAYERS)


@pytest.fixture(scope="module")
def caching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; models kept between workflows were not tested")
    running = Server(comfyui, with_models(tmp_path_factory.mktemp("caching")), cached=True)
    for name, pattern in (("sparse", Diagonal(0)), ("other", Diagonal(1)), ("dense", Dense())):
        add_plan(running, name, pattern)
    yield running
    running.stop()


def run(server: Server, prompt: dict) -> tuple[torch.Tensor, str]:
    """Latents of a workflow and what the server said meanwhile."""
    before = len(server.log_text())
    return latents(server, prompt), new_log(server, before)


def seeded(prompt: dict, seed: int) -> dict:
    inputs = {**prompt["sampler"]["inputs"], "seed": seed}
    return {**prompt, "sampler": {**prompt["sampler"], "inputs": inputs}}


LOADED = "model_type FLOW"  # what the server says when it reads a model file


def test_a_kept_model_is_used_again_unloaded_and_loaded(caching: Server) -> None:
    prompt = with_plan(BARE, "sparse")
    first, log = run(caching, seeded(prompt, 1))
    assert LOADED in log
    second, log = run(caching, seeded(prompt, 2))
    assert LOADED not in log and not torch.equal(first, second)
    again, log = run(caching, seeded(prompt, 1))
    assert LOADED not in log and torch.equal(again, first)
    assert counts(log) == COUNTS
    caching.post("/free", {"unload_models": True, "free_memory": False})
    _, log = run(caching, seeded(prompt, 3))
    assert LOADED not in log and counts(log) == COUNTS
    caching.post("/free", {"unload_models": True, "free_memory": True})
    last, log = run(caching, seeded(prompt, 1))
    assert LOADED in log and torch.equal(last, first)
    assert counts(log) == COUNTS


def test_patched_and_bypassed_clones_of_a_kept_model(caching: Server) -> None:
    """Two samplers of one workflow, with the pack and without it, and the same model bypassed in the next workflow."""
    plain, _ = run(caching, seeded(workflow(BARE, None), 4))
    prompt = seeded(with_plan(BARE, "sparse"), 4)
    sparse, _ = run(caching, prompt)
    both = {**prompt, "bypassed": ksampler(("model", 0), STEPS, cfg=1.0, seed=4)}
    sum_of_both = node("LatentAdd", samples1=("sampler", 0), samples2=("bypassed", 0))
    total = latents(caching, seeded({**both, "sum": sum_of_both}, 4), "sum")
    assert relative_difference(total, plain + sparse) <= SAMPLED_DENSE < relative_difference(total, plain * 2)
    assert torch.equal(run(caching, seeded(workflow(BARE, None), 4))[0], plain)


@pytest.mark.parametrize("side", ["before", "after"])
def test_compiled_code_is_never_stale(caching: Server, side: str) -> None:
    """The same model compiled again and again with other plans, settings and neighbours, and without the pack:
    each time what the same workflow gives uncompiled. ComfyUI drops the guards that would notice any of it."""
    compiled, marked = {side: (COMPILED,)}, {"before": (MARKED,)}
    compiled_and_marked = {"before": (MARKED, COMPILED)} if side == "before" else {**marked, "after": (COMPILED,)}
    workflows = [  # (with the compiler, without)
        (workflow(Composition("", **compiled), None), workflow(BARE, None)),
        (with_plan(Composition("", **compiled), "sparse"), with_plan(BARE, "sparse")),
        (with_plan(Composition("", **compiled), "other"), with_plan(BARE, "other")),
        (with_plan(Composition("", **compiled), "sparse", end_percent=0.5), with_plan(BARE, "sparse", end_percent=0.5)),
        (workflow(Composition("", **compiled_and_marked), None), workflow(Composition("", **marked), None)),
        (with_plan(Composition("", **compiled_and_marked), "sparse"), with_plan(Composition("", **marked), "sparse")),
        (with_plan(Composition("", **compiled), "dense"), with_plan(BARE, "dense")),
    ]
    for number, (with_compiler, without) in enumerate(workflows):
        result, log = run(caching, seeded(with_compiler, 7))
        truth, eager_log = run(caching, seeded(without, 7))
        assert relative_difference(result, truth) <= SAMPLED, number
        if " sparse / " in eager_log:
            assert counts(log) == counts(eager_log), number
