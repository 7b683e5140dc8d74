"""The example workflows, run: loaded unchanged by the real frontend in Chromium, queued from there, in the real server.

Their videos are made small, nothing else is changed. Not the real ones are: weights, small and random under the files'
true names; VAEs, small ones of ComfyUI's own classes; text encoders, for which the test pack has stand-ins
(`comfyui/example_models.py`).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfyui.chromium import browse
from comfyui.example_files import add_image
from comfyui.examples import EXAMPLES
from comfyui.fixtures import WAN_LORA
from comfyui.installation import ROOT, comfyui_path, comfyui_python
from comfyui.models import write_lora
from comfyui.results import PLANS, counts
from comfyui.server import WEB_FOLDER, Server
from safetensors.torch import load_file
from sparse_vdit.plans.plan.files import load_plan

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]
FOLDER = ROOT / "example_workflows"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))
SIZE = {"width": 208, "height": 144, "length": 25}  # 7x9x13 tokens: ragged in every tile size
VIDEO = """
import json, sys, av
frames = [frame.to_ndarray(format="gray") for frame in av.open(sys.argv[1]).decode(video=0)]
print(json.dumps([len(frames), *reversed(frames[0].shape), float(frames[-1].std())]))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small models under the names that the workflows give."""
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; no example workflow was run")
    base = tmp_path_factory.mktemp("examples")
    command = [comfyui_python(comfyui), "example_models.py", str(comfyui), str(base / "models")]
    folder = ROOT / "tests" / "integration" / "comfyui"
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert made.returncode == 0, made.stderr[-3000:]
    write_loras(base / "models")
    add_image(base)
    running = Server(comfyui, base, folder=WEB_FOLDER)
    yield running
    running.stop()


def write_loras(models: Path) -> None:
    """The LoRAs of Wan 2.2's two models."""
    (models / "loras").mkdir()
    nodes = EXAMPLES["Wan 2.2 Image to Video, 4 Steps"].nodes
    for noise in ("high", "low"):
        model, lora = nodes[f"unet_{noise}"]["inputs"]["unet_name"], nodes[f"lora_{noise}"]["inputs"]["lora_name"]
        write_lora(models / "loras" / lora, load_file(models / "diffusion_models" / model), WAN_LORA)


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes-2"])
@pytest.mark.parametrize("name", NAMES)
def test_example_workflow_runs(served: Server, name: str, vue: bool) -> None:
    workflow = json.loads((FOLDER / f"{name}.json").read_text())
    found = browse(served, "run_workflow", vue=vue, name=name, workflow=workflow, size=SIZE)
    assert found["end"] == "execution_success", found
    assert found["errors"] == []
    entry = served.get(f"/history/{found['prompt_id']}")[found["prompt_id"]]
    given = outputs(served, entry)
    patches = [item for item in workflow["nodes"] if item["type"] == "SparseVDiTPatchModel"]
    expected = {"Wan 2.2 Image to Video, 4 Steps": 2, "Make a Plan": 0}.get(name, 1)
    assert len(found["reports"]) == len(patches) == expected
    for line in found["reports"]:
        check_report(line)
        assert line in served.log_text()
    if name == "Make a Plan":
        check_plan(served, given["SparseVDiTSavePlan"]["text"][0])
    check_video(served, given["SaveVideo"]["images"], 3 if name == "Compare Dense and Sparse" else 1)
    if name == "Compare Dense and Sparse":
        text = given["SparseVDiTCompareVideos"]["text"][0]
        assert all(word in text for word in ("PSNR", "SSIM", "flicker")), text


def outputs(served: Server, entry: dict) -> dict[str, dict]:
    """What each output node gave, by its kind; all of them have to have given something."""
    info, prompt = served.get("/object_info"), entry["prompt"][2]
    ends = {number: item["class_type"] for number, item in prompt.items() if info[item["class_type"]]["output_node"]}
    assert ends
    assert ends.keys() <= entry["outputs"].keys(), entry["outputs"].keys()
    return {kind: entry["outputs"][number] for number, kind in ends.items()}


def check_report(line: str) -> None:
    """Sparse calls ran; where a busy machine took them for no faster, both times are told."""
    sparse, _ = counts(line)
    assert sparse or ("sparse is not faster here" in line and " ms sparse and " in line), line
    assert "kernel failed" not in line
    assert "not finite" not in line


def check_video(served: Server, saved: list[dict], across: int) -> None:
    """One video of the asked size, `across` of them side by side, with something to see in its last frame."""
    assert len(saved) == 1
    file = served.base / saved[0]["type"] / saved[0]["subfolder"] / saved[0]["filename"]
    done = subprocess.run(
        [comfyui_python(comfyui_path()), "-c", VIDEO, str(file)], capture_output=True, text=True, check=True, timeout=60
    )
    *size, contrast = json.loads(done.stdout)
    assert size == [SIZE["length"], across * SIZE["width"], SIZE["height"]]
    assert contrast > 1


def check_plan(served: Server, text: str) -> None:
    """The plan and its profile are there, and the plan is one of the model."""
    plan, profile = (served.base / PLANS / name for name in text.removeprefix("saved ").split(", ")[:2])
    found = load_plan(plan)
    assert (found.family, found.layers, found.heads, found.head_dim) == ("wan", 3, 2, 128)
    assert found.density() < 1
    assert profile.suffix == ".safetensors"
    assert profile.stat().st_size
