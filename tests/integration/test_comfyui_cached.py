"""A ComfyUI that keeps models from one workflow to the next, as it does by default: nothing of a run stays on them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from comfyui.compositions import STEPS, Composition, with_plan, workflow
from comfyui.fixtures import with_models
from comfyui.installation import comfyui_path
from comfyui.neighbours import COMPILED, MARKED
from comfyui.plans import LAYERS, add_plan
from comfyui.prompts import ksampler, node
from comfyui.recording import record_small_wan
from comfyui.results import counts, latents, new_log, relative_difference
from comfyui.server import Server
from sparse_vdit.kernels.patterns import Dense, Diagonal
from tolerances import SAMPLED, SAMPLED_DENSE

pytestmark = pytest.mark.comfyui

BARE = Composition("bare")
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
    # ComfyUI frees before the next prompt or after it, whichever its queue comes to first
    (last, log), (next_one, more) = run(caching, seeded(prompt, 1)), run(caching, seeded(prompt, 2))
    assert LOADED in log + more and torch.equal(last, first) and torch.equal(next_one, second)
    assert counts(log) == COUNTS
    plain, _ = run(caching, seeded(workflow(BARE, None), 1))
    for name, result in (("model kept for a second workflow", again), ("model unloaded and loaded again", last)):
        difference = relative_difference(result, plain)
        assert difference > 10 * SAMPLED
        record_small_wan(name, COUNTS, sparse=difference)


def test_patched_and_bypassed_clones_of_a_kept_model(caching: Server) -> None:
    """Two samplers of one workflow, with the pack and without it, and the same model bypassed in the next workflow."""
    plain, _ = run(caching, seeded(workflow(BARE, None), 4))
    prompt = seeded(with_plan(BARE, "sparse"), 4)
    sparse, _ = run(caching, prompt)
    both = {**prompt, "bypassed": ksampler(("model", 0), STEPS, cfg=1.0, seed=4)}
    sum_of_both = node("LatentAdd", samples1=("sampler", 0), samples2=("bypassed", 0))
    total = latents(caching, seeded({**both, "sum": sum_of_both}, 4), "sum")
    assert relative_difference(total, plain + sparse) <= SAMPLED_DENSE < relative_difference(total, plain * 2)
    difference = relative_difference(sparse, plain)
    record_small_wan("patched and bypassed clones", COUNTS, sparse=difference)
    assert torch.equal(run(caching, seeded(workflow(BARE, None), 4))[0], plain)


QUEUE = [  # what is queued, another attention before the pack, plan, settings, how often compiled code is dropped
    ("nothing of the pack", (), None, {}, 0),
    ("a plan", (), "sparse", {}, 0),
    ("another plan", (), "other", {}, 0),
    ("an earlier end", (), "sparse", {"end_percent": 0.5}, 0),
    ("another attention, without the pack", (MARKED,), None, {}, 0),
    ("another attention and a plan", (MARKED,), "sparse", {}, 1),
    ("an all-dense plan", (), "dense", {}, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("side", ["after", "before"])
def test_compiled_code_is_never_stale(caching: Server, side: str) -> None:
    """The same model compiled again and again with other plans, settings and neighbours, and without the pack:
    each time what the same workflow gives uncompiled. ComfyUI drops the guards that would notice any of it. The code of
    other models is not dropped where the pack's can be used again."""
    for what, neighbours, plan, settings, dropped in QUEUE:
        uncompiled = Composition(what, before=neighbours)
        compiled = Composition(what, **{"before": neighbours, side: (*neighbours * (side == "before"), COMPILED)})
        results, logs = [], []
        for composition in (compiled, uncompiled):
            bare = workflow(composition, None)
            prompt = bare if plan is None else with_plan(composition, plan, **settings)
            result, log = run(caching, seeded(prompt, 7))
            results.append(result)
            logs.append(log)
        difference = relative_difference(*results)
        assert difference <= SAMPLED, what
        assert logs[0].count("compiled code was dropped") == dropped, what
        if plan is not None:
            assert counts(logs[0]) == counts(logs[1]), what
            name = f"torch.compile (eager) {side}, queued again with {what} (stand-in)"
            record_small_wan(name, counts(logs[0]), uncompiled=difference)
