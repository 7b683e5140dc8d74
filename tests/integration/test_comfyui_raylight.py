"""The node for raylight: ComfyUI's own Wan on processes that share its sequence, with a stand-in for what raylight does
there; and where the node is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from comfyui.fixtures import with_models
from comfyui.installation import comfyui_path
from comfyui.models import small_wan_weights
from comfyui.plans import add_plan
from comfyui.prompts import base, node
from comfyui.results import counts, latents, new_log, relative_difference
from comfyui.scripts import run_script
from comfyui.server import PromptError, Server
from safetensors.torch import save_file
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from tolerances import SAMPLED

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

STEPS, LAYERS = 2, 4
ALL = STEPS * LAYERS
DENSE_LAYER = fallback.DENSE_HEADS.reason
SPARSE = ["sparse", "sparse, even", "sparse again", "compiled"]
NODE = "SparseVDiTPatchRaylight"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """By case: what each of two ranks said, and how far its latents are from others."""
    folder = tmp_path_factory.mktemp("raylight")
    save_file(small_wan_weights(), folder / "wan.safetensors")
    untested = "no plan ran on processes that share a sequence"
    return run_script("raylight_ranks.py", folder, str(folder / "wan.safetensors"), str(folder), untested=untested)


def reasons(line: str) -> dict[str, int]:
    """Dense calls of a report line by reason."""
    counted = re.search(r"dense calls \((.*?)\)(?:[,;]|$)", line.strip())
    return {name: int(count) for name, count in re.findall(r"(?:^|, )(.+?) (\d+)(?=, |$)", counted[1])}


@pytest.mark.parametrize("case", SPARSE)
def test_ranks_together_give_what_one_process_gives(found: dict, case: str) -> None:
    """The odd video has a pad; a layer whose heads are all dense runs raylight's own attention, which attends it."""
    here = found[case]
    assert here["to each other"] == 0
    assert here["to one process"] <= SAMPLED
    assert here["to dense"] > 100 * SAMPLED
    for rank, line in enumerate(here["said"]):
        assert line.startswith(f"rank {rank} of 2: Sparse-vDiT: Sparse attention ran: ") and line.count("\n") == 1
        assert counts(line) == (ALL - STEPS, STEPS) and reasons(line) == {DENSE_LAYER: STEPS}


def test_density_is_a_share_of_what_a_rank_does_without_a_plan(found: dict) -> None:
    ranks = [float(re.search(r"density (\d\.\d+)", line)[1]) for line in found["sparse"]["said"]]
    assert 0 < min(ranks) < max(ranks) < 1
    assert sum(ranks) / 2 == pytest.approx(found["density"], abs=0.011)  # each is rounded to 0.01


def test_the_dense_start(found: dict) -> None:
    for line in found["late"]["said"]:
        assert counts(line) == (LAYERS - 1, LAYERS + 1)
        assert reasons(line) == {fallback.WARM_UP.reason: LAYERS, DENSE_LAYER: 1}
    assert found["late"]["to dense"] > SAMPLED


ALL_DENSE = {
    "never": fallback.WARM_UP.reason,
    "talking": "MultiTalkPatch works on the attention, in a way the pack does not know",
    "not split": fallback.NO_RAYLIGHT.reason,
}


@pytest.mark.parametrize("case", ALL_DENSE)
def test_forwards_that_are_dense_run_what_ran_before(found: dict, case: str) -> None:
    here = found[case]
    assert [counts(line) for line in here["said"]] == [(0, ALL)] * 2
    assert [reasons(line) for line in here["said"]] == [{ALL_DENSE[case]: ALL}] * 2
    assert case == "not split" or here["to dense"] == 0


def test_a_sequence_that_the_grid_does_not_explain_is_dense(found: dict) -> None:
    for line in found["more tokens"]["said"]:
        assert counts(line) == (0, ALL)
        assert reasons(line) == {fallback.OTHER_TOKENS.reason: ALL - STEPS, DENSE_LAYER: STEPS}


@pytest.mark.parametrize(
    ("case", "why"),
    [("other", "plan another is for a model with heads 4, this one has heads 3"),
     ("one rank in a group", fallback.NO_RAYLIGHT.reason)],
)  # fmt: skip
def test_runs_that_are_dense_say_why(found: dict, case: str, why: str) -> None:
    for line in found[case]["said"]:
        assert line.startswith(f"Sparse-vDiT: Not faster here: {why}")


def test_a_kernel_that_fails_on_one_rank_makes_all_dense(found: dict) -> None:
    """In its second call: the others finish that forward, and nobody waits for ever."""
    here, (first, second) = found["error"], found["error"]["said"]
    assert here["to each other"] == 0
    assert reasons(second) == {fallback.KERNEL_FAILED.reason: ALL - 2, DENSE_LAYER: 1} and counts(second)[0] == 1
    assert "layer 1: the sparse kernel failed (RuntimeError: trouble was asked for)" in second
    assert counts(first) == (LAYERS - 1, LAYERS + 1)
    assert reasons(first) == {DENSE_LAYER: 1, fallback.OTHER_RANK.reason: LAYERS}


def test_what_fails_before_a_forward_makes_all_dense(found: dict) -> None:
    here = found["unprepared"]
    assert here["to dense"] == 0
    assert [reasons(line) for line in here["said"]] == [
        {fallback.OTHER_RANK.reason: ALL},
        {fallback.KERNEL_FAILED.reason: ALL},
    ]


def test_a_forward_that_is_not_finite_on_one_rank_is_repeated_on_all(found: dict) -> None:
    here, (first, second) = found["not finite"], found["not finite"]["said"]
    assert here["to dense"] == 0
    assert reasons(first) == {fallback.NOT_FINITE.reason: ALL} and reasons(second) == {fallback.OTHER_RANK.reason: ALL}
    heads = ", ".join(map(str, found["heads of the first"][1]))
    assert f"layer 1, head {heads};" in first and "computed again dense" in first


def test_numbers_of_the_model_are_told_from_those_of_kernels(found: dict) -> None:
    """On the rank too that does not hold the token."""
    for line in found["model's own numbers"]["said"]:
        assert reasons(line) == {fallback.NOT_FINITE_INPUTS.reason: ALL}


def ray_prompt(**settings: float) -> dict:
    """The node between stand-ins for raylight's loader and sampler, which have one worker in the server itself."""
    return {
        **base(),
        "actors": node("TestRayActors", model=("model", 0)),
        "plan": node("SparseVDiTLoadPlan", plan_name="user/sparse"),
        "patch": node(NODE, ray_actors=("actors", 0), plan=("plan", 0), **settings),
        "sampler": node(
            "TestRaySampler", ray_actors=("patch", 0), positive=("positive", 0), negative=("negative", 0),
            latent=("latent", 0),
        ),
    }  # fmt: skip


def test_a_workflow_runs_through_the_node(server: Server) -> None:
    """Without xFuser, so that its model stays as it is, and says so."""
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    found = latents(server, ray_prompt(start_percent=0.0, end_percent=1.0))
    assert f"Sparse-vDiT: Not faster here: {fallback.NO_RAYLIGHT.reason}. Try " in new_log(server, before)
    unpatched = ray_prompt(start_percent=0.0, end_percent=1.0)
    unpatched["sampler"]["inputs"]["ray_actors"] = ["actors", 0]
    assert relative_difference(found, latents(server, unpatched)) == 0


def test_a_worker_that_cannot_take_the_plan_is_an_error_of_the_node(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    prompt = ray_prompt(start_percent=0.0, end_percent=1.0)
    prompt["actors"]["inputs"]["broken"] = True
    with pytest.raises(PromptError, match=r"a worker of raylight could not take the plan.*no such worker"):
        latents(server, prompt)


def test_the_node_is_there_only_with_raylight(server: Server, tmp_path: Path) -> None:
    assert server.get(f"/object_info/{NODE}")[NODE]["input"]["required"]["ray_actors"][0] == "RAY_ACTORS"
    without = Server(comfyui_path(), with_models(tmp_path), raylight=False)
    try:
        assert without.get(f"/object_info/{NODE}") == {}
        assert "SparseVDiTPatchModel" in without.get("/object_info/SparseVDiTPatchModel")
    finally:
        without.stop()
