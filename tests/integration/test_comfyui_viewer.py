"""The plan viewer in a real Chromium, at the real ComfyUI and its frontend, in both ways that it draws nodes."""

from __future__ import annotations

import dataclasses
import json
import random
import urllib.error
from pathlib import Path

import pytest
from comfyui.chromium import browse
from comfyui.installation import ROOT
from comfyui.plans import wan_plan
from comfyui.results import counts
from comfyui.server import Server
from comfyui.viewing import both_renderers, mixed_plan, numbered, one_renderer, shown
from sample_plans import large_plan
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance
from sparse_vdit.plans.plan.text import plan_to_text
from sparse_vdit.plans.search.cost import plan_speedup
from sparse_vdit.plans.search.kept_dense import kept_dense, with_dense

pytest_plugins = ["comfyui.fixtures"]
pytestmark = pytest.mark.comfyui
HTML = "<img src=x onerror=window.HIT=1><b>bold"


def density(text: str) -> float:
    return float(text.removeprefix("mean density ").split(";")[0])


def speedup(text: str) -> float:
    return float(text.split("attention ")[1].split(" times")[0])


@both_renderers
def test_look_lock_reload_run_and_reset(served: Server, vue: bool) -> None:
    plan, kept = mixed_plan(), kept_dense("1, multi_diagonal")
    found = browse(served, "use_viewer", vue=vue, prompt=numbered(shown(served, "mixed", plan)), band=1, kind="multi")
    assert found["errors"] == []
    last = plan.pattern(1, 3, 2)
    assert found["hovered"].startswith(f"layer 3, head 2: {last.describe()}, density ")
    assert found["byKeys"].startswith("layer 1, head 1: diagonal")
    assert found["spoken"] == "polite"
    assert min(found["picture"]) > 300
    assert found["locked"] == found["reloaded"] == str(kept)
    assert "(kept dense)" in found["legend"]
    check_totals(found["before"], plan)
    assert found["looking"] == 0  # nothing to change where the plan is loaded
    assert found["looked"] == found["handedOn"] == found["before"]
    for name in ("after", "reloadedTotals"):
        check_totals(found[name], with_dense(plan, kept))
    assert found["reset"] == ""
    assert found["resetTotals"] == found["before"]
    check_run(found)


def check_totals(text: str, plan: Plan) -> None:
    """What the browser counts is what the pack counts."""
    assert density(text) == pytest.approx(plan.density(), abs=0.0051)
    assert speedup(text) == pytest.approx(plan_speedup(plan)[0], abs=0.0051)


def check_run(found: dict) -> None:
    """The report is there, in words and in counts: layer 1 was kept dense, as it was locked."""
    sparse, dense = counts(found["report"])
    assert sparse > 0
    assert found["verdict"].startswith(f"Sparse attention ran: {sparse} of {sparse + dense} calls sparse at density 0.")
    assert found["measured"].startswith(f"{round(100 * sparse / (sparse + dense))} % of calls sparse, mean density ")
    assert found["measured"].endswith(", speed not measured")  # nothing that is expected of the plan
    assert found["steps"] == found["stepsSpoken"].count(";") + 1 >= 4
    assert "dense start" in found["stepsSpoken"]
    assert found["ran"].startswith("layer 1, head 0: diagonal, own frame +-1, density ")
    assert ", kept dense; its layer ran 0 calls sparse" in found["ran"]
    assert "dense: kept dense" in found["ran"]
    assert "cross-attention" not in found["ran"] + found["stepsSpoken"]
    assert found["changeable"] == 0  # what has run cannot be changed
    assert found["keptAfterRun"] == found["locked"]
    assert found["stillRun"] == "true"


@one_renderer
def test_copies_and_subgraphs(served: Server, vue: bool) -> None:
    """What is configured outside of a graph is left alone, and each load asks for its plan once."""
    found = browse(served, "edit_graph", vue=vue, prompt=numbered(shown(served, "mixed", mixed_plan())))
    assert found["errors"] == []
    assert (found["loading"], found["copying"], found["again"]) == (1, 0, 1)
    assert found["inside"] == ["SparseVDiTLoadPlan", "SparseVDiTPatchModel"]
    assert found["panels"] == 2


@one_renderer
def test_clicks_and_sizes_are_kept(served: Server, vue: bool) -> None:
    found = browse(served, "keep_changes", vue=vue, prompt=numbered(shown(served, "mixed", mixed_plan())), cell=22)
    assert found["errors"] == []
    assert (found["locked"], found["undone"], found["reloaded"]) == ("0, 2", "0", "0, 3")
    assert found["grown"] == found["takenBack"] > 100
    assert found["closed"][0] == found["closed"][1]
    assert found["sized"] == found["sizeReloaded"]


@one_renderer
def test_keys(served: Server, vue: bool) -> None:
    """What is pressed keeps the keyboard, and combinations of keys reach the page."""
    prompt = numbered(shown(served, "mixed", mixed_plan()))
    found = browse(served, "use_keyboard", vue=vue, prompt=prompt, kind="multi")
    assert found["errors"] == []
    assert found["legend"].endswith("kept dense. Follow the plan again")
    assert found["band"].startswith("Noise levels 0.800")
    assert found["bandPressed"] == "true"
    assert found["reset"].startswith("Layers down, heads across.")
    assert found["unmoved"]
    assert found["queued"] == 1


@one_renderer
def test_plans_that_are_late_missing_text_or_rerouted(served: Server, vue: bool) -> None:
    plan, name = mixed_plan(), "user/mixed"
    prompt = numbered(shown(served, "mixed", plan))
    text = plan_to_text(wan_plan(Diagonal(frames=1)))
    found = browse(served, "ask_plan", vue=vue, prompt=prompt, name=name, text=text)
    assert found["loading"] == ["Loading the plan.", False]
    assert found["failed"][0].startswith("The plan could not be loaded: ")
    assert found["failed"][1] is False
    assert found["errors"] == [found["errors"][0]]
    assert "/sparse_vdit/plan" in found["errors"][0]
    assert found["text"] == ["The plan in plan_text is shown after a run.", False]
    assert found["ran"][0].startswith("shared in the workflow")
    check_totals(found["ran"][1], wan_plan(Diagonal(frames=1)))
    assert found["listed"].startswith(name)
    check_totals(found["totals"], plan)
    assert found["rerouted"] == found["totals"]


@one_renderer
def test_html_in_a_plan_is_text(served: Server, vue: bool) -> None:
    name = HTML.replace("/", "")
    plan = dataclasses.replace(mixed_plan(), provenance=dataclasses.replace(mixed_plan().provenance, model=HTML))
    found = browse(served, "show_hostile", vue=vue, prompt=numbered(shown(served, name, plan)))
    assert f"user/{name}" in found["title"]
    assert HTML in found["title"].removeprefix(f"user/{name}")
    assert found["hit"] is None
    assert found["images"] == 0


@one_renderer
@pytest.mark.parametrize("layers, heads", [(60, 24), pytest.param(40, 40, marks=pytest.mark.slow)])
def test_times_of_a_large_map(
    served: Server, vue: bool, layers: int, heads: int, record_property: pytest.FixtureRequest
) -> None:
    draw = random.Random(3)
    table = tuple(tuple(draw.randrange(65) for _ in range(heads)) for _ in range(layers))
    origin = Provenance(model="a made-up plan", rule="random")  # as its picture may be shown somewhere
    bands = (Band(1.0, 0.0, table),)
    plan = dataclasses.replace(large_plan(), layers=layers, heads=heads, bands=bands, provenance=origin)
    found = browse(served, "time_viewer", vue=vue, prompt=numbered(shown(served, f"large{layers}", plan)))
    assert found.pop("errors") == []
    assert found.pop("told") > 100  # of 200 moves, most to another head
    assert found.keys() == {"script", "firstPaint", "hoverMedian", "hoverMost", "hoverWorkMedian", "hoverWorkMost"}
    assert found["hoverWorkMost"] > 0
    for name, milliseconds in found.items():
        record_property(name, milliseconds)
    print(f"{layers}x{heads}, {'nodes 2.0' if vue else 'canvas'}, ms:", json.dumps(found))


@one_renderer
def test_example_workflows_load_whole(served: Server, vue: bool) -> None:
    files = sorted((ROOT / "example_workflows").glob("*.json"))
    assert files
    workflows = {file.stem: json.loads(file.read_text()) for file in files}
    found = browse(served, "load_workflows", vue=vue, workflows=workflows)
    assert found["errors"] == []
    info = served.get("/object_info")
    for name, loaded in found["loaded"].items():
        assert loaded["missing"] == [], name
        assert loaded["nodes"] == len(workflows[name]["nodes"]), name
        kinds = [item["type"] for item in workflows[name]["nodes"]]
        viewers = ("SparseVDiTLoadPlan", "SparseVDiTSearchPlan", "SparseVDiTPatchModel")
        assert loaded["panels"] == sum(kinds.count(kind) for kind in viewers), name
        for item in loaded["prompt"].values():
            required = info[item["class_type"]]["input"].get("required", {})
            assert required.keys() <= item["inputs"].keys(), f"{name}: {item['class_type']}"
        served.post("/prompt", {"prompt": loaded["prompt"]})  # which is an error where ComfyUI finds a value wrong
        served.post("/queue", {"clear": True})
        served.post("/interrupt")


def test_only_listed_plans_are_told_of(served: Server) -> None:
    for name in ("", "user/../../server", "/etc/passwd", "../x", str(Path("/etc/hostname"))):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            served.get(f"/sparse_vdit/plan?name={name}")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            served.get(f"/sparse_vdit/head?name={name}&head=0,0,0")


def test_heads_that_are_none_are_refused(served: Server) -> None:
    shown(served, "mixed", mixed_plan())
    for head in ("", "0", "0,0", "0,0,0,0", "-1,0,0", "0,0,x", "0,0,99999", "0;0;0"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            served.get(f"/sparse_vdit/head?name=user/mixed&head={head}")
    for head in ("2,0,0", "0,4,0", "0,0,3"):  # two bands, four layers, three heads
        with pytest.raises(urllib.error.HTTPError, match="422"):
            served.get(f"/sparse_vdit/head?name=user/mixed&head={head}")
