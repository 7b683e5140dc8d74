"""Running ComfyUIs for all test modules that name this file in `pytest_plugins`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .example_files import add_names
from .installation import ROOT, comfyui_path, comfyui_python
from .models import small_wan_weights, write_lora, write_models
from .plans import forget_plans
from .prompts import base, ksampler
from .results import PLANS, latents
from .server import WEB_FOLDER, Server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the pack, the test pack and the small models; skips where there is no ComfyUI."""
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; nothing of the nodes was tested in a real ComfyUI")
    base = tmp_path_factory.mktemp("comfyui")
    running = Server(comfyui, with_models(base))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    """That server without a plan of the user's: a patch node finds those by itself, whichever module left them."""
    forget_plans(shared_server)
    return shared_server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose files browsers get."""
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; nothing of the plan viewer was tested")
    base = with_models(tmp_path_factory.mktemp("viewer"))
    add_names(base)
    running = Server(comfyui, base, folder=WEB_FOLDER)
    yield running
    running.stop()


def with_models(base: Path) -> Path:
    """A server's folder with the small models, a LoRA, and room for plans."""
    for folder in ("models/diffusion_models", "models/loras", PLANS):
        (base / folder).mkdir(parents=True)
    write_models(base / "models/diffusion_models")
    write_lora(base / "models/loras/strong.safetensors", small_wan_weights(), WAN_LORA)
    return base


WAN_LORA = ("self_attn.q.weight", "self_attn.o.weight", "ffn.0.weight")
FAMILY_LORAS = {
    "hunyuan": ("img_attn.qkv.weight", "img_attn.proj.weight", "linear1.weight"),
    "cog": (".q.weight", ".attn_out.weight", ".ff_proj.weight"),
}
"""Checkpoint of a family -> ends of the weights that the LoRA of that name changes."""


def write_families(base: Path, *names: str) -> None:
    """Small checkpoints of the families in a server's folder, of these names or all."""
    path = comfyui_path()
    command = [comfyui_python(path), "family_models.py", str(path), str(base / "models/diffusion_models"), *names]
    folder = ROOT / "tests" / "integration" / "comfyui"
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert made.returncode == 0, made.stderr[-3000:]


@pytest.fixture(scope="session")
def shared_models(shared_server: Server) -> Server:
    """The server, with a small checkpoint of every family and LoRAs for some."""
    write_families(shared_server.base)
    for name, layers in FAMILY_LORAS.items():
        weights = load_file(shared_server.base / f"models/diffusion_models/{name}.safetensors")
        write_lora(shared_server.base / f"models/loras/{name}.safetensors", weights, layers)
    return shared_server


@pytest.fixture(scope="module")
def models(server: Server, shared_models: Server) -> Server:
    """That server with the checkpoints and without a plan of the user's."""
    assert server is shared_models
    return server


@pytest.fixture(scope="session")
def plain(shared_server: Server) -> torch.Tensor:
    """Latents of the unpatched model in four steps."""
    result = latents(shared_server, {**base(), "sampler": ksampler(("model", 0), 4)})
    assert torch.isfinite(result).all()
    assert result.std() > 0.1
    return result
