"""What the nodes say, as it stands on the screen of a real Chromium, in both ways that the frontend draws nodes."""

from __future__ import annotations

import dataclasses

import pytest
from comfyui.chromium import browse
from comfyui.prompts import base, ksampler, node, patch, profiled, save_latent
from comfyui.server import Server
from comfyui.viewing import mixed_plan, numbered, one_renderer, shown

pytest_plugins = ["comfyui.fixtures"]
pytestmark = pytest.mark.comfyui


def whole_workflow() -> dict:
    """All nodes that say something: a run, a saved and a shown plan, two compared videos, a profile."""
    images = {name: node("EmptyImage", width=64, height=48, batch_size=3, color=color)
              for name, color in (("one", 0), ("other", 255))}  # fmt: skip
    return {
        **base(),
        **profiled(steps=1),
        **images,
        "plan": node("SparseVDiTLoadPlan", plan_name="user/mixed"),
        "patch": patch(("plan", 0)),
        "sampled": ksampler(("patch", 0)),
        "save": save_latent(("sampled", 0), "screen"),
        "profiled": save_latent(("profile", 0), "screen"),
        "saved": node("SparseVDiTSavePlan", plan=("plan", 0), file_name="saved", overwrite=True),
        "shown": node("SparseVDiTPreviewPlan", plan=("plan", 0)),
        "compared": node(
            "SparseVDiTCompareVideos", reference=("one", 0), video=("other", 0), difference_gain=4.0
        ),
    }  # fmt: skip


@one_renderer
def test_every_text_is_on_the_screen_whole_and_once(served: Server, vue: bool) -> None:
    shown(served, "mixed", mixed_plan())
    says = {
        "SparseVDiTPatchModel": "Sparse attention ran: 12 of 16 calls sparse at density 0.82 (plan user/mixed, not ",
        "SparseVDiTSavePlan": "saved saved.json",
        "SparseVDiTPreviewPlan": "wan: 4 layers of 3 heads x 128",
        "SparseVDiTCompareVideos": "PSNR ",
        "SparseVDiTProfileHeads": "measured 4 calls in ",
    }
    before = len(served.log_text())
    prompt = numbered(whole_workflow())
    found = browse(served, "read_screen", vue=vue, prompt=prompt, kinds=list(says), maps=["SparseVDiTPatchModel"])
    assert (found["end"], found["errors"]) == ("execution_success", [])
    for kind, seen in found["nodes"].items():
        assert seen["text"][0].startswith(says[kind.removesuffix(", open")]), kind
        assert (seen["inside"], seen["whole"], seen["seen"]) == (True, True, True), kind
        assert set(seen["times"]) == {1}, f"{kind} {seen['times']}"
    assert found["low"]["inside"]  # the button too
    patched = found["nodes"]["SparseVDiTPatchModel"]["text"]
    assert len(patched) == 2
    assert f"Sparse-vDiT: {patched[0]}. {patched[1]}" in "".join(
        line for line in served.log_text()[before:].splitlines() if "of 16 calls" in line
    )


@one_renderer
def test_a_search_for_sparse_lists_the_patch_node_first(served: Server, vue: bool) -> None:
    info = served.get("/object_info")
    names = {kind: item["display_name"] or kind for kind, item in info.items()}
    ours = [name for kind, name in names.items() if kind.startswith("SparseVDiT")]
    assert len(ours) == 8 and all(name.startswith("Sparse-vDiT ") for name in ours)
    found = browse(served, "search_nodes", vue=vue, names=list(names.values()), words=["spar", "sparse", "faster"])
    assert found["errors"] == []
    for word, listed in found["listed"].items():
        assert listed[0] == "Sparse-vDiT Patch", word
    assert set(ours) <= set(found["listed"]["sparse"])


@one_renderer
def test_maps_tell_of_the_plan_and_of_the_run(served: Server, vue: bool) -> None:
    """A plan that ships without patterns says so; what is expected is of the size that ran; a run tells what it had."""
    plan = dataclasses.replace(mixed_plan(), grid=(9, 16, 22))
    prompt = numbered(shown(served, "larger", plan))
    empty, large = "wan/wan2.2_5b.calibrate", "wan/wan2.1_14b_t2v.balanced"
    found = browse(served, "look_at_plans", vue=vue, prompt=prompt, plans=[empty, large, "user/larger"])
    assert found["errors"] == []
    told = found["plans"]
    assert told[empty]["says"].startswith("This plan has no patterns yet. The first run finds them")
    assert [told[name]["map"] for name in told] == [False, True, True]
    assert not told[large]["says"]
    assert "expected at 9x16x22 tokens" in told["user/larger"]["totals"]
    assert "expected at 5x8x11 tokens" in found["plan"]["totals"]
    assert found["lastRun"]["totals"].startswith("75 % of calls sparse, mean density ")
    assert (found["images"], found["head"][:26]) == (0, "There is nothing to draw: ")  # of a dense head, no black box
    assert "expected" not in found["lastRun"]["totals"]
