"""What the nodes say, as it stands on the screen of a real Chromium, in both ways that the frontend draws nodes."""

from __future__ import annotations

import pytest
from comfyui.chromium import browse
from comfyui.prompts import base, ksampler, node, patch, profiled, save_latent
from comfyui.server import Server
from comfyui.viewing import both_renderers, mixed_plan, numbered, shown

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


@both_renderers
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
    patched = found["nodes"]["SparseVDiTPatchModel"]["text"]
    assert len(patched) == 2
    assert f"Sparse-vDiT: {patched[0]}. {patched[1]}" in "".join(
        line for line in served.log_text()[before:].splitlines() if "of 16 calls" in line
    )
