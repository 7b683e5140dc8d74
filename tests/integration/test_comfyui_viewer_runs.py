"""The plan viewer in a real Chromium: what it keeps of runs, pictures of heads, languages, and what is heard of it."""

from __future__ import annotations

import re

import pytest
from comfyui.chromium import browse
from comfyui.plans import LAYERS, add_plan, forget_plans
from comfyui.prompts import base, ksampler, node, patch, patched, profiled, save_latent
from comfyui.results import counts, report
from comfyui.server import Server
from comfyui.viewing import mixed_plan, numbered, one_renderer, shown
from sparse_vdit.kernels.patterns import Diagonal

pytest_plugins = ["comfyui.fixtures"]
pytestmark = pytest.mark.comfyui


@one_renderer
def test_the_last_run_is_kept_and_stays_on_its_workflow(served: Server, vue: bool) -> None:
    found = browse(served, "keep_run", vue=vue, prompt=numbered(shown(served, "mixed", mixed_plan())))
    assert found["errors"] == []
    ran = found["ran"]
    assert counts(ran["report"])[0] > 0
    assert (ran["tabs"], ran["steps"], ran["shown"]) == (2, 4, True)
    assert "at density 0.82 (plan user/mixed" in ran["said"]
    assert found["reloaded"] == ran
    assert found["turned"] == "true"
    assert found["other"] == [False, "", 0]  # another number, no report, no tabs
    assert found["back"] == {**ran, "report": found["report"]}
    assert found["report"] != ran["report"]  # of another time at least


def searched() -> dict:
    """Workflow that profiles, searches and runs a plan."""
    return {
        **base(),
        **profiled(steps=2),
        "search": node("SparseVDiTSearchPlan", profile=("profile", 1), rule="budget: density", **{"rule.density": 0.5}),
        "patch": patch(("search", 0)),
        "sampled": ksampler(("patch", 0)),
        "save": save_latent(("sampled", 0), "viewer"),
    }  # fmt: skip


@one_renderer
def test_heads_of_a_searched_plan_in_pictures(served: Server, vue: bool) -> None:
    """On the search and on the patch node, of its plan and of what ran."""
    found = browse(served, "show_heads", vue=vue, prompt=numbered(searched()))
    assert ["/sparse_vdit/head" in error for error in found.pop("errors")] == [True]
    forgotten = found.pop("forgotten")
    assert forgotten["alt"] is None
    assert forgotten["words"].startswith("There is no picture of this head: this plan is no longer kept")
    assert found.pop("cleared") == ""
    assert found.keys() == {"SparseVDiTSearchPlan 0", "SparseVDiTPatchModel 0", "SparseVDiTPatchModel 1"}
    for where, chosen in found.items():
        assert chosen["cell"].startswith("layer 0, head 2: "), where
        assert chosen["alt"] == f"What {chosen['cell'].split('; its layer')[0]} attends, and its pattern", where
        assert chosen["dark"] > 0.05, where
        assert chosen["words"] == "", where
        assert chosen["live"] == "polite", where


@one_renderer
def test_heads_of_a_plan_that_was_found_while_sampling(served: Server, vue: bool) -> None:
    """By the run that found it, and by the profile beside it in the run that takes it up again."""
    forget_plans(served)
    for kept in (False, True):
        prompt = {**patched(None), "save": save_latent(("sampler", 0), "viewer")}
        before = len(served.log_text())
        found = browse(served, "show_heads", vue=vue, prompt=numbered(prompt))
        assert ("calibrated plan of" in report(served, before)) is kept
        chosen = found["SparseVDiTPatchModel 1"]
        assert chosen["cell"].startswith("layer 0, head 2: ")
        assert chosen["dark"] > 0.05
        assert chosen["words"] == ""


@one_renderer
def test_heads_of_a_plan_without_a_profile(served: Server, vue: bool) -> None:
    """The pattern is shown, and words say what is missing."""
    add_plan(served, "alone", Diagonal(1))
    prompt = {**patched("alone"), "save": save_latent(("sampler", 0), "viewer")}
    found = browse(served, "show_heads", vue=vue, prompt=numbered(prompt))
    chosen = found["SparseVDiTPatchModel 1"]
    assert chosen["cell"].startswith("layer 0, head 2: ")
    assert 0 < chosen["width"] < 650  # one map under a title
    assert chosen["words"].startswith("Only the pattern is shown: what this head attends was not measured")


@one_renderer
def test_progress_stands_on_the_node_that_makes_it(served: Server, vue: bool) -> None:
    """Of calibration on the patch node, though it is the sampler that runs then, whose own bar goes on."""
    forget_plans(served)
    prompt = {**patched(None), "save": save_latent(("sampler", 0), "viewer")}
    found = browse(served, "watch_progress", vue=vue, prompt=numbered(prompt))
    assert (found["errors"], found["how"]) == ([], "execution_success")
    measured = progress(found, "SparseVDiTPatchModel")[-LAYERS - 1:]
    assert measured == [*((n, LAYERS, "running") for n in range(1, LAYERS + 1)), (LAYERS, LAYERS, "finished")]
    assert [one for one in progress(found, "KSampler") if one[1] == 4][:4] == [(n, 4, "running") for n in range(1, 5)]
    assert found["bars"].keys() == {"SparseVDiTPatchModel", "KSampler"}  # on both nodes themselves
    found = browse(served, "watch_progress", vue=vue, prompt=numbered(searched()))
    assert (found["errors"], found["how"]) == ([], "execution_success")
    for kind, most in (("SparseVDiTProfileHeads", 2), ("SparseVDiTSearchPlan", 3)):
        # ComfyUI leaves out values that follow the one before at once
        assert {value for value, of, _ in progress(found, kind) if of == most} >= {1, most}, kind


def progress(found: dict, kind: str) -> list[tuple[int, int, str]]:
    """(value, most, state) that a node was said to have, one after the other."""
    return [(one["value"], one["max"], one["state"]) for one in found["told"] if one["kind"] == kind]


@one_renderer
def test_what_is_heard(served: Server, vue: bool) -> None:
    """By the tree of accessible things: the map's name and role, each head at the cursor, buttons with their state."""
    found = browse(served, "hear_viewer", vue=vue, prompt=numbered(shown(served, "mixed", mixed_plan())))
    assert found["errors"] == []
    assert [(one["name"], one["expanded"]) for one in found["closed"]] == [("Map of heads", False)]
    for key, cell in (("PageUp", "layer 0, head 0: dense"), ("ArrowDown", "layer 1, head 0: diagonal, own"),
                      ("ArrowRight", "layer 1, head 1: diagonal, own")):  # fmt: skip
        assert [text for text in found[key] if text.startswith(cell)], key
    (heard,) = [one for one in found["open"] if one["role"] == "application"]
    assert heard["described"] == "map of layers and heads"
    assert heard["name"].startswith("Layers down, heads across. Arrow keys move")
    assert all(one["name"] for one in found["open"] if one["role"] in ("button", "application", "image"))
    pressed = {when: {one["name"]: one.get("pressed") for one in found[when] if one["role"] == "button"}
               for when in ("open", "locked", "followed")}  # fmt: skip
    layer = "Keep layer 1 dense"
    assert [pressed[when][layer] for when in pressed] == ["false", "true", "false"]
    assert pressed["open"]["Noise levels all \u2013 0.800, mean density 0.77"] == "true"
    assert pressed["open"]["diagonal, 5 heads. Keep these heads dense"] == "false"
    assert "Reset" in pressed["locked"].keys() - pressed["open"].keys()
    assert [one["text"] for one in found["locked"] if one.get("live") and one["text"].endswith(", kept dense")]


@pytest.mark.parametrize("locale", ["zh", "fr"])
def test_texts_in_the_language_of_the_frontend(served: Server, locale: str) -> None:
    """English where the table lacks a language. Patterns are the server's, and so is how times are known."""
    prompt = numbered(shown(served, "mixed", mixed_plan()))
    found = browse(served, "hear_viewer", vue=locale == "zh", locale=locale, prompt=prompt)
    assert found["errors"] == []
    says, button = ("第 1 层", "第 1 层保持稠密") if locale == "zh" else ("layer 1, head 1", "Keep layer 1 dense")
    assert [text for text in found["ArrowRight"] if text.startswith(says)]
    names = [one["name"] for one in found["locked"] if one["role"] in ("button", "application", "status")]
    assert button in names
    for name in names:
        assert bool(re.search("[\u4e00-\u9fff]", name)) is (locale == "zh") or not name, name


@one_renderer
def test_what_is_in_no_workflow_is_let_go(served: Server, vue: bool) -> None:
    other = {"1": node("EmptyHunyuanLatentVideo", width=176, height=128, length=17, batch_size=1)}
    prompt = numbered(shown(served, "mixed", mixed_plan()))
    found = browse(served, "leave_subgraph", vue=vue, prompt=prompt, other=other)
    assert found == {"loaded": 2, "entered": 2, "left": 2, "gone": 0, "removed": 0, "errors": []}
