"""All families in one table, for the README."""

from __future__ import annotations

from . import FAMILIES
from .family import Model

HEAD = ("model", "name in plans", "layers", "heads x head_dim", "patch", "sequence", "text", "stays dense", "tested on")


def families_table() -> str:
    """One row for each published model of each family, in Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for family in FAMILIES:
        for model in family.models:
            heads = f"{model.heads} x {model.head_dim}"
            cells = (model.name, f"`{family.name}`", model.layers, heads, model.patch or family.patch, family.order)
            lines.append(f"| {' | '.join((*cells, family.text, family.not_ours, tested(model)))} |")
    lines += [
        "",
        "Tested on: ComfyUI's own class and loader, a small checkpoint with random weights of that structure, sampled "
        "in a real server; names are those of the tests' cases (`tests/comfyui/family_cases.py`).",
        "**No real checkpoint was at hand, so none was run with a real model's weights or size.**",
    ]
    return "\n".join(lines)


def tested(model: Model) -> str:
    """The cases that a model was run in, and what was not run."""
    cases = "; ".join(model.tested)
    return f"{cases}. Not run: {model.not_run}" if model.not_run else cases
