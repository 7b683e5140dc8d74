"""Writes the example workflows through the real frontend, and their thumbnails: python -m comfyui.make_examples in
tests/integration.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import load_pack  # noqa: F401
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .chromium import browse
from .example_files import TEMPLATES, add_names, template_models
from .examples import EXAMPLES, Example
from .fixtures import with_models as with_small_models
from .installation import ROOT, comfyui_path
from .server import WEB_FOLDER, Server

CLIP, THUMBNAIL = (448, 384), (640, 360)  # pixels
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
    groups = {title: [numbers[node] for node in group] for title, group in example.groups.items()}
    titles = {numbers[node]: title for node, title in example.titles.items()}
    return {"name": name, "prompt": prompt, "groups": groups, "titles": titles, "note": example.note}


def thumbnail(name: str, still: tuple[int, int]) -> Image.Image:
    """A still of a video of the small Wan with the example's name, large enough for ComfyUI's list of templates.

    Args:
        still: clip and frame.
    """
    clip, frame = still
    with Image.open(ROOT / "docs" / "small_wan_large.webp") as clips:
        clips.seek(frame)
        top = clips.height - CLIP[1]
        left = clip * (clips.width - CLIP[0])
        picture = clips.convert("RGB").crop((left, top, left + CLIP[0], top + CLIP[1]))
    picture = ImageOps.fit(picture, THUMBNAIL)
    pen = ImageDraw.Draw(picture, "RGBA")
    pen.rectangle((0, 270, *THUMBNAIL), (16, 18, 22, 225))
    pen.text((24, 292), name, "white", ImageFont.load_default(34))
    pen.text((24, 334), "sparse attention; still of the small test model", (190, 190, 190), ImageFont.load_default(17))
    return picture


def main() -> None:
    with tempfile.TemporaryDirectory() as base:
        add_names(with_small_models(Path(base)))
        server = Server(comfyui_path(), Path(base), folder=WEB_FOLDER)
        try:
            comfyui = server.get("/system_stats")["system"]["comfyui_version"]
            given = [plain(name, example) for name, example in EXAMPLES.items()]
            found = browse(server, "make_workflow", vue=False, examples=given)
            models = {name: template_models(server, template) for name, template in TEMPLATES.items()}
        finally:
            server.stop()
    for name, example in EXAMPLES.items():
        thumbnail(name, example.still).save(FOLDER / f"{name}.jpg", quality=85)
    for name, workflow in found["made"].items():
        made = with_models(versioned(workflow, comfyui), models[name])
        (FOLDER / f"{name}.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
