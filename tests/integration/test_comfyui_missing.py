"""Example workflows on a ComfyUI without their model files: what its frontend offers for them, and from where."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from comfyui.chromium import browse
from comfyui.example_files import TEMPLATES, template_models
from comfyui.installation import ROOT, comfyui_path
from comfyui.server import WEB_FOLDER, Server
from comfyui.viewing import one_renderer

pytestmark = pytest.mark.comfyui
FOLDER = ROOT / "example_workflows"
LOADERS = ("UNETLoader", "CLIPLoader", "DualCLIPLoader", "VAELoader", "LoraLoaderModelOnly")
NO_ADDRESS = {"cogvideox1.5_5b_t2v_bf16.safetensors"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a single model."""
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; no example workflow was loaded")
    running = Server(comfyui, tmp_path_factory.mktemp("bare"), folder=WEB_FOLDER)
    yield running
    running.stop()


def files(workflow: dict) -> dict[str, dict | None]:
    """The model files that loaders name, with their entries, None where there is none."""
    found = {}
    for item in workflow["nodes"]:
        if item["type"] in LOADERS:
            entries = {entry["name"]: entry for entry in item["properties"].get("models", ())}
            names = [value for value in item["widgets_values"] if str(value).endswith(".safetensors")]
            assert entries.keys() <= set(names)
            found |= {name: entries.get(name) for name in names}
    return found


def test_files_are_those_of_comfyuis_own_templates(bare: Server) -> None:
    assert {file.stem for file in FOLDER.glob("*.json")} == TEMPLATES.keys()
    for name, template in TEMPLATES.items():
        own = template_models(bare, template)
        for file, entry in files(json.loads((FOLDER / f"{name}.json").read_text())).items():
            assert entry == (None if file in NO_ADDRESS else own[file]), f"{name}: {file}"


@one_renderer
def test_the_frontend_offers_what_is_missing(bare: Server, vue: bool) -> None:
    workflow = json.loads((FOLDER / "Wan 2.2 Image to Video, 4 Steps.json").read_text())
    found = browse(bare, "miss_models", vue=vue, workflow=workflow)
    assert found["errors"] == []
    text = found["text"].replace("\n\n", "\n")
    missing = files(workflow)
    assert len(missing) == 6
    for name, entry in missing.items():
        assert f"{name}\n{entry['directory']}\nDownload\n" in text, name
