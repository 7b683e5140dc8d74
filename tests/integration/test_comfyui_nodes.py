"""All nodes in a real ComfyUI: how they are described, what they refuse, and the example workflows."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from comfyui.installation import ROOT
from comfyui.prompts import base, ksampler, node
from comfyui.results import PLANS
from comfyui.server import PromptError, Server

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]
NODES = {
    "SparseVDiTPatchModel": (["MODEL"], {"model": "MODEL", "plan": "SPARSE_VDIT_PLAN"}),
    "SparseVDiTPatchRaylight": (["RAY_ACTORS"], {"ray_actors": "RAY_ACTORS", "plan": "SPARSE_VDIT_PLAN"}),
    "SparseVDiTLoadPlan": (["SPARSE_VDIT_PLAN", "SPARSE_VDIT_PROFILE"], {}),
    "SparseVDiTSavePlan": (["SPARSE_VDIT_PLAN", "STRING"], {"plan": "SPARSE_VDIT_PLAN"}),
    "SparseVDiTProfileHeads": (
        ["LATENT", "SPARSE_VDIT_PROFILE"],
        {
            "noise": "NOISE",
            "guider": "GUIDER",
            "sampler": "SAMPLER",
            "sigmas": "SIGMAS",
            "latent_image": "LATENT",
            "previous_profile": "SPARSE_VDIT_PROFILE",
        },
    ),
    "SparseVDiTSearchPlan": (["SPARSE_VDIT_PLAN"], {"profile": "SPARSE_VDIT_PROFILE"}),
    "SparseVDiTPreviewPlan": (
        ["IMAGE", "STRING", "IMAGE"],
        {"plan": "SPARSE_VDIT_PLAN", "profile": "SPARSE_VDIT_PROFILE"},
    ),
    "SparseVDiTCompareVideos": (["STRING", "IMAGE", "IMAGE"], {"reference": "IMAGE", "video": "IMAGE"}),
}


FRONTENDS_OWN = {"upload"}  # the button of Load Image


def inputs(description: dict) -> Iterator[tuple[str, list]]:
    """(name, [type, options]) of all inputs, those of dynamic combos included."""
    for kind in ("required", "optional"):
        for name, value in description.get(kind, {}).items():
            yield name, value
            for option in value[1].get("options", ()) if len(value) > 1 else ():
                if isinstance(option, dict):
                    yield from inputs(option["inputs"])


def test_nodes_with_frozen_ids_and_a_tooltip_on_everything(server: Server) -> None:
    info = server.get("/object_info")
    assert {name for name in info if name.startswith("SparseVDiT")} == set(NODES)
    for name, (outputs, sockets) in NODES.items():
        described = info[name]
        assert described["category"] == "model/patch/Sparse-vDiT"
        assert described["output"] == outputs
        assert described["description"]
        assert described["search_aliases"]
        assert all(described["output_tooltips"]), name
        found = dict(inputs(described["input"]))
        assert {key: found[key][0] for key in sockets} == sockets
        for key, value in found.items():
            assert value[1].get("tooltip"), f"{name}.{key} has no tooltip"


@pytest.mark.parametrize("name", ["../outside", "a/b", "a\\\\b", "..", "", "C:x", "nul", "x" * 101, "\u6f22" * 99])
def test_names_with_path_parts_are_refused(server: Server, name: str) -> None:
    (server.base / PLANS / "dense_for_names.json").write_text(DENSE_PLAN)
    load = node("SparseVDiTLoadPlan", plan_name="user/dense_for_names")
    keep = node("SparseVDiTSavePlan", plan=("load", 0), file_name=name, overwrite=True)
    files = sorted(server.base.rglob("*.json"))
    with pytest.raises(PromptError, match="cannot be written on every system"):
        server.run({"load": load, "keep": keep})
    assert sorted(server.base.rglob("*.json")) == files


@pytest.mark.parametrize("name", ["user/../../x", "../server", "/etc/passwd", "user/nothing"])
def test_only_listed_plans_are_opened(server: Server, name: str) -> None:
    load = node("SparseVDiTLoadPlan", plan_name=name)
    with pytest.raises(PromptError, match="is not here"):
        server.run({"load": load, "show": node("SparseVDiTPreviewPlan", plan=("load", 0))})


def test_a_broken_plan_names_its_field(server: Server) -> None:
    (server.base / PLANS / "broken.json").write_text(DENSE_PLAN.replace('"layers": 1', '"layers": true'))
    load = node("SparseVDiTLoadPlan", plan_name="user/broken")
    with pytest.raises(PromptError, match="layers: True is out of range"):
        server.run({"load": load, "show": node("SparseVDiTPreviewPlan", plan=("load", 0))})


def test_compare_videos(server: Server) -> None:
    def compared(seed: int) -> str:
        sampler = ksampler(("model", 0), steps=2, seed=seed)
        prompt = {
            **base(),
            "first": ksampler(("model", 0), steps=2, seed=5),
            "second": sampler,
            "a": node("TestLatentToFrames", latent=("first", 0)),
            "b": node("TestLatentToFrames", latent=("second", 0)),
            "compare": node("SparseVDiTCompareVideos", reference=("a", 0), video=("b", 0), difference_gain=4.0),
            "shown": node("PreviewImage", images=("compare", 1)),
        }
        outputs = server.run(prompt)
        assert len(outputs["shown"]["images"]) == 5
        assert len(outputs["compare"]["images"]) == 1  # the plot
        return outputs["compare"]["text"][0]

    assert compared(5) == "identical"
    different = compared(6)
    assert "worst frame" in different
    assert "flicker" in different


def test_example_workflows_have_only_known_nodes_and_valid_inputs(server: Server) -> None:
    info = server.get("/object_info")
    files = sorted((ROOT / "example_workflows").glob("*.json"))
    assert files
    for file in files:
        workflow = json.loads(file.read_text())
        kinds = {item["id"]: item["type"] for item in workflow["nodes"]}
        for item in workflow["nodes"]:
            if item["type"] in ("Note", "MarkdownNote"):
                continue
            assert item["type"] in info, f"{file.name}: {item['type']} is unknown"
            known = dict(inputs(info[item["type"]]["input"]))
            for socket in item.get("inputs", ()):
                name = socket["name"].split(".")[-1]  # of a dynamic combo's inputs the frontend tells both names
                where = f"{file.name}: {item['type']}"
                assert name in known or name in FRONTENDS_OWN, f"{where} has no input {name}"
            if item["type"].startswith("SparseVDiT"):
                check_widgets(file.name, info[item["type"]]["input"], list(item.get("widgets_values") or ()))
        for number, source, output, target, slot, kind in workflow["links"]:
            assert info[kinds[source]]["output"][output] == kind, f"{file.name}: link {number}"
            nodes = {item["id"]: item for item in workflow["nodes"]}
            assert nodes[target]["inputs"][slot]["link"] == number


def test_values_that_workflows_saved_before_still_find_their_inputs(server: Server) -> None:
    """They are kept by place: options have kept their names and first inputs, and what is new comes after them."""
    described = server.get("/object_info/SparseVDiTSearchPlan")["SparseVDiTSearchPlan"]["input"]
    for values in (["budget: density", 0.35], ["budget: error", 0.1], ["paper", 0.5, 1.0]):
        check_widgets("before", described, [*values, 0.03])


def check_widgets(file: str, description: dict, values: list) -> None:
    """All widgets of a node have a value of their kind, in order; combos one of their options. Empties `values`."""
    kinds = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}

    def take(description: dict) -> None:
        for name, (kind, *more) in (pair for group in ("required", "optional")
                                    for pair in description.get(group, {}).items()):  # fmt: skip
            if kind in kinds:
                value = values.pop(0)
                assert isinstance(value, kinds[kind]), f"{file}: {name} is {value!r}"
                assert more[0].get("min", value) <= value <= more[0].get("max", value), f"{file}: {name} is {value!r}"
            elif kind == "COMFY_DYNAMICCOMBO_V3":
                value = values.pop(0)
                take(next(option["inputs"] for option in more[0]["options"] if option["key"] == value))
            elif kind == "COMBO":
                value, options = values.pop(0), more[0]["options"]
                assert name == "plan_name" or value in options, (
                    f"{file}: {name} is {value!r}, expected one of {options}"
                )

    take(description)
    assert not values, f"{file}: values {values} belong to no widget"


DENSE_PLAN = """{"format": "sparse-vdit-plan", "version": 1, "family": "wan", "layers": 1, "heads": 1,
 "head_dim": 128, "grid": [1, 1, 1], "grade": "prior", "patterns": [{"kind": "dense", "order": "spatial"}],
 "bands": [{"sigma_high": 1.0, "sigma_low": 0.0, "heads": [[0]]}],
 "provenance": {"model": "", "rule": "", "parameters": {}, "prompts": [], "versions": {}, "date": "", "source": "",
  "notes": ""}}"""
