"""Model files of the example workflows: where ComfyUI's own templates have them, and empty ones of their names."""

from __future__ import annotations

import shutil
from pathlib import Path

from .examples import EXAMPLES
from .installation import comfyui_path
from .server import Server

TEMPLATES = {
    "Wan 2.2 Image to Video, 4 Steps": "video_wan2_2_14B_i2v",
    "Wan 2.1 Text to Video": "text_to_video_wan",
    "HunyuanVideo 1.5 Text to Video": "video_hunyuan_video_1.5_720p_t2v",
    "CogVideoX 1.5 Text to Video": "utility_void_video_inpainting",
    "Compare Dense and Sparse": "text_to_video_wan",
    "Make a Plan": "text_to_video_wan",
}
"""Example -> ComfyUI's own template whose files it loads."""


def template_models(server: Server, template: str) -> dict[str, dict]:
    """The model files of one of ComfyUI's own templates by name: its nodes' entries of name, url and directory."""
    workflow = server.get(f"/templates/{template}.json")
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", ())]
    nodes = (item for graph in graphs for item in graph["nodes"])
    return {entry["name"]: entry for item in nodes for entry in item.get("properties", {}).get("models", ())}


def add_names(base: Path) -> None:
    """Empty files of the names that the examples give, and the image, so that none is missing."""
    folders = {"unet_name": "diffusion_models", "clip_name": "text_encoders", "vae_name": "vae", "lora_name": "loras"}
    for example in EXAMPLES.values():
        for item in example.nodes.values():
            for name, value in item["inputs"].items():
                folder = folders.get(name.rstrip("12"))
                if folder is not None:
                    file = base / "models" / folder / value
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.touch()
    add_image(base)


def add_image(base: Path) -> None:
    """The image that ComfyUI comes with, as an input."""
    (base / "input").mkdir(exist_ok=True)
    shutil.copy(comfyui_path() / "input" / "example.png", base / "input")
