"""Shipped and shared plans in a real ComfyUI: taken where they fit, refused politely where they do not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from comfyui.family_cases import SPARSE, Case
from comfyui.fixtures import write_families
from comfyui.plans import forget_plans
from comfyui.prompts import base, ksampler, node, patch, patched, profiled
from comfyui.results import PLANS, counts, latents, new_log, report
from comfyui.server import PromptError, Server
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.library.shipped import SHIPPED
from sparse_vdit.plans.plan.files import load_plan, save_plan
from sparse_vdit.plans.plan.plan import Plan
from sparse_vdit.plans.plan.text import plan_from_text, plan_to_text

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

CASES = {
    "wan2.1 t2v": "wan/wan2.1_14b_t2v.balanced",
    "wan2.2 i2v, no clip vision": "wan/wan2.2_a14b_i2v.fast",
    "wan2.2 5b": "wan/wan2.2_5b.calibrate",
    "hunyuan video": "hunyuan_video/hunyuanvideo_t2v.balanced",
    "hunyuan video i2v, concatenated image": "hunyuan_video/hunyuanvideo_i2v.balanced",
    "hunyuan video 1.5": "hunyuan_video/hunyuanvideo_1.5.calibrate",
    "cogvideox, learned positions": "cogvideox/cogvideox_2b.calibrate",
    "cogvideox": "cogvideox/cogvideox_5b.calibrate",
    "cogvideox 1.5, odd frames": "cogvideox/cogvideox_1.5_5b.calibrate",
}
"""Case of a family -> a plan that ships for a published model of its kind."""
PAIRS = [(case, CASES[case.name]) for case in SPARSE if case.name in CASES]
QUICK = ("wan2.1 t2v", "wan2.2 5b", "hunyuan video", "cogvideox, learned positions")
"""Every family and every grade once."""
every_pair = pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(case, name, id=case.name, marks=() if case.name in QUICK else pytest.mark.slow)
        for case, name in PAIRS
    ],
)


def scaled_down(name: str, case: Case) -> Plan:
    """The shipped plan of a model's first layers and heads."""
    plan = load_plan(SHIPPED / f"{name}.json")
    bands = tuple(
        dataclasses.replace(band, heads=tuple(row[: case.heads] for row in band.heads[: case.layers]))
        for band in plan.bands
    )
    kept = tuple(place for place in plan.card.kept_dense if place[0] < case.layers and place[1] < case.heads)
    card = dataclasses.replace(plan.card, densities=plan.card.densities[: case.layers], kept_dense=kept)
    return dataclasses.replace(plan, layers=case.layers, heads=case.heads, bands=bands, card=card)


def run(server: Server, case: Case, plan: str, **options: object) -> tuple[torch.Tensor, str]:
    """Latents of a case with a plan of any name, and the report."""
    load = node("SparseVDiTLoadPlan", plan_name=plan)
    options = {"backend": "torch", "start_percent": 0.1, **options}
    before = len(server.log_text())
    found = latents(server, case.sampled({"plan": load, "patch": patch(("plan", 0), **options)}, "patch"))
    return found, report(server, before)


@every_pair
def test_a_shipped_plan_of_a_larger_model_is_refused_politely(models: Server, case: Case, name: str) -> None:
    plan = load_plan(SHIPPED / f"{name}.json")
    result, line = run(models, case, name)
    assert f"Not faster here: plan {name} is for a model with layers {plan.layers}, this one has layers " in line
    assert f"layers {case.layers}. Try another plan, or disconnect it." in line
    assert torch.equal(result, latents(models, case.sampled({}, "model")))


@every_pair
def test_a_shipped_plan_that_fits_runs_and_is_completed(models: Server, case: Case, name: str) -> None:
    """Scaled down to the small model. What was measured runs as it ships; the others are completed in the first run."""
    forget_plans(models)
    plan = scaled_down(name, case)
    save_plan(plan, models.base / PLANS / "down.json")
    measured = plan.grade == "measured"
    result, line = run(models, case, "user/down", start_percent=0.0 if measured else 0.1)
    found = [*(models.base / PLANS / "calibrated").glob("*.json")]
    assert torch.isfinite(result).all()
    if measured:
        assert f"{plan.family}, plan user/down (measured), " in line and not found
        assert fallback.NO_BAND.reason in line  # above the first of STA's steps
        assert counts(line)[0] >= case.layers
    else:
        assert f"user/down ({plan.grade}) completed: found in this run; for the next run kept as user/" in line
        assert len(found) == 1 and load_plan(found[0]).provenance.parameters["completes"].startswith(plan.card.model)
    if plan.grade == "prior":
        line = run(models, case, "user/down", calibrate=False)[1]
        assert f"{plan.family}, plan user/down (prior), " in line and counts(line)[0] >= case.layers
    if plan.grade == "calibrate":
        line = run(models, case, "user/down", calibrate=False)[1]
        assert f"Not faster here: {fallback.NO_PLAN}" in line


def test_what_is_kept_dense_of_a_plan_stays_so_when_it_is_completed(models: Server) -> None:
    """By the mean density: a named backend runs dense layers too."""
    case, name = PAIRS[0]
    forget_plans(models)
    save_plan(scaled_down(name, case), models.base / PLANS / "down.json", overwrite=True)
    densities = {}
    for keep in ("", "", "0", f"0-{case.layers - 1}"):  # the first run measures
        load = node("SparseVDiTLoadPlan", plan_name="user/down")
        before = len(models.log_text())
        options = {"backend": "torch", "start_percent": 0.1, "preset": "faithful", "keep_dense": keep}
        patched_model = patch(("plan", 0), **options)
        latents(models, case.sampled({"plan": load, "patch": patched_model}, "patch"))
        line = report(models, before)
        assert "user/down (prior) completed: " in line
        assert "preset faithful ignored, a plan is connected" in line
        densities[keep] = float(re.search(r"at density ([\d.]+)", line)[1])
    free, first, whole = densities.values()
    assert free < first < whole == 1


@pytest.fixture
def wan_13b(server: Server) -> Server:
    """The server with a model of Wan 2.1 1.3B's layers and heads."""
    write_families(server.base, "wan_1.3b")
    forget_plans(server)
    yield server
    (server.base / "models/diffusion_models/wan_1.3b.safetensors").unlink()


@pytest.mark.slow
def test_a_model_of_a_published_shape_gets_its_plan_by_itself(wan_13b: Server) -> None:
    case = dataclasses.replace(SPARSE[0], file="wan_1.3b", texts=(7, 7), heads=12, calls=tuple(range(30)))
    place = {"patch": patch(backend="torch", start_percent=0.1, few_steps="auto")}
    lines = []
    for options in ({"calibrate": False}, {}, {}):
        place["patch"]["inputs"].update(options)
        if not options:
            place["patch"]["inputs"].pop("calibrate", None)
        before = len(wan_13b.log_text())
        latents(wan_13b, case.sampled(place, "patch"))
        lines.append(report(wan_13b, before))
    as_shipped, first, second = lines
    name = "wan/wan2.1_1.3b_t2v.balanced"
    for line in lines:
        assert "taken for Wan 2.1 1.3B T2V or a fine-tune of it, by 30 layers of 12 heads" in line
    assert f"wan, plan {name} (prior), 5x7x9 tokens: " in as_shipped and counts(as_shipped)[0] >= 30
    assert f"{name} (prior) completed: found in this run; for the next run kept as user/" in first
    assert f"{name} (prior) completed: calibrated plan of" in second
    assert counts(second)[0] > counts(first)[0]


def test_texts_may_come_from_other_nodes(server: Server) -> None:
    """ComfyUI does not know them yet when it validates a workflow."""
    plan = load_plan(SHIPPED / "wan/wan2.2_5b.calibrate.json")

    def saved_as(name: str, text: str = "") -> dict:
        """Load Sparse Plan with a linked text, and Save Sparse Plan with one."""
        nodes = {key: node("PrimitiveString", value=value) for key, value in {"name": name, "text": text}.items()}
        load = node("SparseVDiTLoadPlan", plan_name="wan/wan2.2_5b.calibrate", plan_text=("text", 0))
        save = node("SparseVDiTSavePlan", plan=("plan", 0), file_name=("name", 0), overwrite=True)
        return {**nodes, "plan": load, "save": save}

    server.run(saved_as("linked"))
    assert load_plan(server.base / PLANS / "linked.json") == plan
    other = load_plan(SHIPPED / "wan/wan2.1_1.3b_t2v.fast.json")
    server.run(saved_as("linked", text=plan_to_text(other)))
    assert load_plan(server.base / PLANS / "linked.json") == other
    keep = {"keep": node("PrimitiveString", value="nonsense")}
    with pytest.raises(PromptError, match="keep_dense: 'nonsense' is neither a layer"):
        latents(server, {**patched(None, keep_dense=("keep", 0)), **keep})
    with pytest.raises(PromptError, match=r"file name '\.\./up'"):
        server.run(saved_as("../up"))


def test_a_saved_plan_runs_only_where_it_is_connected(server: Server) -> None:
    forget_plans(server)
    search = node("SparseVDiTSearchPlan", profile=("profile", 1), rule="budget: density", **{"rule.density": 0.7})
    keep = node("SparseVDiTSavePlan", plan=("search", 0), file_name="mine", overwrite=True)
    server.run({**base(), **profiled(steps=2), "search": search, "keep": keep})
    before = len(server.log_text())
    latents(server, patched(None, calibrate=False))
    assert f"Not faster here: {fallback.NO_PLAN}" in report(server, before)


def small_plan_file(server: Server) -> Path:
    """A plan of the small Wan among the user's."""
    search = node("SparseVDiTSearchPlan", profile=("profile", 1), rule="budget: density", **{"rule.density": 0.7})
    keep = node("SparseVDiTSavePlan", plan=("search", 0), file_name="travels", overwrite=True)
    show = node("PreviewAny", source=("keep", 1))
    outputs = server.run({**base(), **profiled(steps=2), "search": search, "keep": keep, "show": show})
    path = server.base / PLANS / "travels.json"
    assert plan_from_text(outputs["show"]["text"][0]) == load_plan(path)
    return path


def with_text(text: str, name: str = "user/not here") -> dict:
    """The patch node with a plan that travels in the workflow."""
    load = node("SparseVDiTLoadPlan", plan_name=name, plan_text=text)
    return {**base(), "plan": load, "patch": patch(("plan", 0)), "sampler": ksampler(("patch", 0), 4)}


def test_a_shared_plan_runs_the_same_where_its_file_is_not(server: Server) -> None:
    path = small_plan_file(server)
    named = latents(server, patched("travels"))
    text = plan_to_text(load_plan(path))
    path.unlink()
    before = len(server.log_text())
    assert torch.equal(latents(server, with_text(text)), named)
    assert "wan, plan shared in the workflow (measured), 5x8x11 tokens" in report(server, before)
    before = len(server.log_text())
    for broken, says in ((text[:-3], "is damaged"), (text[3:], "is no plan"), ("{}", "is no plan")):
        with pytest.raises(PromptError, match=says):
            latents(server, with_text(broken))
    assert "sparse /" not in new_log(server, before)  # nothing was executed


def test_a_missing_plan_is_an_error_that_names_a_few_like_it_or_falls_back(server: Server) -> None:
    forget_plans(server)
    with pytest.raises(PromptError) as error:
        load = node("SparseVDiTLoadPlan", plan_name="wan/wan2.1_14b_t2v.balanced2")
        latents(server, {**patched("gone"), "plan": load})
    message = str(error.value)
    assert "plan 'wan/wan2.1_14b_t2v.balanced2' is not here" in message
    assert "these have similar names: wan/wan2.1_14b_t2v.balanced, " in message
    assert len(message) < 4000
    prompt = patched("gone", calibrate=False)
    prompt["plan"]["inputs"]["if_missing"] = "let the patch node choose"
    before = len(server.log_text())
    latents(server, prompt)
    assert "plan 'user/gone' is not here, the patch node chooses" in new_log(server, before)
    assert f"Not faster here: {fallback.NO_PLAN}" in report(server, before)
    prompt["show"] = node("SparseVDiTPreviewPlan", plan=("plan", 0))
    with pytest.raises(PromptError, match="Load Sparse Plan found no plan here: choose a plan there"):
        server.run(prompt)


def test_the_list_shows_shipped_plans_first(server: Server) -> None:
    options = server.get("/object_info/SparseVDiTLoadPlan")["SparseVDiTLoadPlan"]["input"]["required"]["plan_name"]
    names = options[1]["options"] if isinstance(options[0], str) else options[0]
    shipped = [name for name in names if not name.startswith("user/")]
    assert names[: len(shipped)] == shipped
    assert {*shipped} == {f"{path.parent.name}/{path.stem}" for path in SHIPPED.glob("*/*.json")}
    assert all(re.fullmatch(r"[a-z_0-9]+/[a-z_0-9.]+\.(faithful|balanced|fast|calibrate)", name) for name in shipped)
