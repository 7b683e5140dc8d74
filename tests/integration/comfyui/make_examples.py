"""Writes the example workflows and their pictures, through the real frontend: python -m comfyui.make_examples in
tests/integration.

wan_make_plan is made by hand in the frontend, and only gets the versions, the files' addresses and a new picture.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import load_pack  # noqa: F401

from .chromium import browse
from .example_files import BY_HAND, TEMPLATES, add_names, template_models
from .examples import EXAMPLES, Example
from .fixtures import with_models as with_small_models
from .installation import ROOT, comfyui_path
from .server import WEB_FOLDER, Server

FOLDER = ROOT / "example_workflows"
PACK = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]


def versioned(workflow: dict, comfyui: str) -> dict:
    """The workflow with what ComfyUI Manager needs to find missing nodes: pack and version of each."""
    for item in workflow["nodes"]:
        if item["type"] in ("Note", "MarkdownNote"):
            continue
        ours = item["type"].startswith("SparseVDiT")
        item["properties"] |= {"cnr_id": "sparse-vdit" if ours else "comfy-core", "ver": PACK if ours else comfyui}
    return workflow


def with_models(workflow: dict, models: dict[str, dict]) -> dict:
    """The workflow with what the frontend needs to offer missing files: their entries in ComfyUI's own template."""
    for item in workflow["nodes"]:
        found = [models[value] for value in item.get("widgets_values") or () if value in models]
        if found:
            item["properties"]["models"] = found
    return workflow


def plain(name: str, example: Example) -> dict:
    """An example for the browser, nodes by number."""
    numbers = {node: str(number) for number, node in enumerate(example.nodes, 1)}

    def linked(value: object) -> object:
        return [numbers[value[0]], value[1]] if isinstance(value, list) else value

    prompt = {
        numbers[node]: {**item, "inputs": {key: linked(value) for key, value in item["inputs"].items()}}
        for node, item in example.nodes.items()
    }
    columns = [[numbers[node] for node in column] for column in example.columns]
    titles = {numbers[node]: title for node, title in example.titles.items()}
    return {"name": name, "prompt": prompt, "columns": columns, "titles": titles, "note": example.note}


def main() -> None:
    by_hand = {BY_HAND: json.loads((FOLDER / f"{BY_HAND}.json").read_text())}
    with tempfile.TemporaryDirectory() as base:
        add_names(with_small_models(Path(base)))
        server = Server(comfyui_path(), Path(base), folder=WEB_FOLDER)
        try:
            comfyui = server.get("/system_stats")["system"]["comfyui_version"]
            given = [plain(name, example) for name, example in EXAMPLES.items()]
            options = {"examples": given, "byHand": by_hand, "folder": str(FOLDER)}
            found = browse(server, "make_workflow", vue=False, palette="light", **options)
            models = {name: template_models(server, template) for name, template in TEMPLATES.items()}
        finally:
            server.stop()
    for name, workflow in {**found["made"], **by_hand}.items():
        made = with_models(versioned(workflow, comfyui), models[name])
        (FOLDER / f"{name}.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
