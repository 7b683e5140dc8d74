"""One running ComfyUI for all test modules that name this file in `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .installation import comfyui_path
from .models import write_lora, write_models
from .prompts import base, ksampler
from .results import PLANS, latents
from .server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the pack, the test pack and the small models; skips where there is no ComfyUI."""
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; nothing of the nodes was tested in a real ComfyUI")
    base = tmp_path_factory.mktemp("comfyui")
    running = Server(comfyui, with_models(base))
    yield running
    running.stop()


def with_models(base: Path) -> Path:
    """A server's folder with the small models, a LoRA, and room for plans."""
    for folder in ("models/diffusion_models", "models/loras", PLANS):
        (base / folder).mkdir(parents=True)
    write_models(base / "models/diffusion_models")
    write_lora(base / "models/loras/strong.safetensors")
    return base


@pytest.fixture(scope="session")
def plain(server: Server) -> torch.Tensor:
    """Latents of the unpatched model in four steps."""
    result = latents(server, {**base(), "sampler": ksampler(("model", 0), 4)})
    assert torch.isfinite(result).all()
    assert result.std() > 0.1
    return result
