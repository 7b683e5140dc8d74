"""What this machine is, as JSON: its GPU, versions, and the models of `end_to_end.py` that fit the GPU's memory.

    python -m benchmarks.report.gpu_machine --file runs/gpu/machine.json
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch
from sparse_vdit.plans.plan.versions import installed_versions

from benchmarks.models.whole_costs import forward_flops, tokens_of
from benchmarks.models.whole_models import MODELS, WholeModel

PART = 0.9  # of the memory, what a model may take
WIDTHS = 24  # tensors of a token that are there at a time, each as wide as the model: a guess


def needed_bytes(model: WholeModel) -> int:
    """Memory for a forward in 16 bits: weights, and what is computed from them."""
    settings, tokens = model.settings, tokens_of(model)
    width = settings.get("dim") or settings.get("hidden_size")
    width = width or settings["num_attention_heads"] * settings["attention_head_dim"]
    parameters = forward_flops(model)[0] / (2 * tokens)
    return int(2 * parameters + 2 * WIDTHS * tokens * width)


def fitting(memory: int) -> list[str]:
    """Models that fit so many bytes, the cheapest first."""
    return [name for name, model in MODELS.items() if needed_bytes(model) <= PART * memory]


def machine() -> dict:
    """All of it; without a GPU its fields are None."""
    found = {"python": platform.python_version(), "system": platform.platform(), "versions": installed_versions()}
    found |= dict.fromkeys(("gpu", "memory_bytes", "architecture", "cuda"))
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"gpu": card.name, "memory_bytes": card.total_memory, "cuda": torch.version.cuda}
        found |= {"architecture": f"{card.major}.{card.minor}"}
    return found | {"fitting": fitting(found["memory_bytes"] or 0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="the JSON to write")
    args = parser.parse_args()
    args.file.write_text(json.dumps(machine(), indent=1))


if __name__ == "__main__":
    main()
