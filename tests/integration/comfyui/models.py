"""Small model files for the server, with the keys of real checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from small_wan.model import SmallWan

from .installation import ROOT

TRAINED = ROOT / "tests" / "small_wan" / "small_wan.safetensors"


def small_wan_weights() -> dict[str, torch.Tensor]:
    """The trained small Wan; random weights that give finite latents where its file is not there."""
    if TRAINED.is_file():
        return load_file(TRAINED)
    torch.manual_seed(11)
    model = SmallWan()
    torch.nn.init.normal_(model.head.head.weight, std=0.02)
    return {name: value.half().contiguous() for name, value in model.state_dict().items()}


def write_lora(file: Path, weights: dict[str, torch.Tensor], layers: tuple[str, ...]) -> None:
    """A LoRA of rank 2 for the weights whose names end so, strong enough to see."""
    generator, lora = torch.Generator().manual_seed(13), {}
    for name in (name for name in weights if name.endswith(layers)):
        rows, columns = weights[name].shape
        key = f"diffusion_model.{name.removesuffix('.weight')}"
        lora[f"{key}.lora_A.weight"] = torch.randn(2, columns, generator=generator) * 0.05
        lora[f"{key}.lora_B.weight"] = torch.randn(rows, 2, generator=generator) * 0.05
    save_file(lora, file)


def write_models(folder: Path) -> None:
    """`small_wan.safetensors`, and `causal.safetensors`: the same as a variant that the pack must leave alone."""
    weights = small_wan_weights()
    save_file(weights, folder / "small_wan.safetensors")
    causal = json.dumps({"transformer": {"causal_ar": True}})
    save_file(weights, folder / "causal.safetensors", metadata={"config": causal})
