"""Makes docs/images/one_node.png, the patch node with its report in the real frontend: python -m comfyui.make_picture
in tests/integration. The small Wan runs on a CPU; it takes some minutes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import load_pack  # noqa: F401

from .chromium import browse
from .fixtures import with_models
from .installation import ROOT, comfyui_path
from .prompts import base, ksampler, node, patch, save_latent
from .server import WEB_FOLDER, Server
from .viewing import numbered

FILE = ROOT / "docs" / "images" / "one_node.png"
SIZE = {"width": 320, "height": 256, "length": 33, "batch_size": 1}  # 9 x 16 x 20 tokens
PLACES = {  # x, y, width, height
    "UNETLoader": (80, 150, 270, 90),
    "SparseVDiTPatchModel": (400, 150, 420, 300),
    "KSampler": (870, 150, 270, 320),
}
CLIP = {"x": 60, "y": 100, "width": 1110, "height": 480}


def prompt() -> dict:
    """The small Wan without a plan, on a video that is large enough for sparse attention to pay."""
    nodes = base() | {"latent": node("EmptyHunyuanLatentVideo", **SIZE)}
    sampler = ksampler(("patch", 0), steps=5, cfg=1.0)
    return {
        **nodes, "patch": patch(only_if_faster=True), "sampler": sampler, "save": save_latent(("sampler", 0), "x"),
    }  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(comfyui_path(), with_models(Path(folder)), folder=WEB_FOLDER)
        try:
            given = {"prompt": numbered(prompt()), "places": PLACES, "clip": CLIP, "file": str(FILE)}
            browse(server, "picture_node", vue=True, palette="light", **given)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
