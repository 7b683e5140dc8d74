"""All families in one table, for the README."""

from __future__ import annotations

from . import FAMILIES

HEAD = ("model", "name in plans", "layers", "heads x head_dim", "patch", "sequence", "text", "stays dense", "tested on")


def families_table() -> str:
    """One row for each published model of each family, in Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for family in FAMILIES:
        for model in family.models:
            heads = f"{model.heads} x {model.head_dim}"
            cells = (model.name, f"`{family.name}`", model.layers, heads, model.patch or family.patch, family.order)
            lines.append(f"| {' | '.join((*cells, family.text, family.not_ours, model.tested))} |")
    lines += [
        "",
        "Random weights: ComfyUI's own class and loader, a small random checkpoint, sampled in a real server.",
        "**No real checkpoint was at hand, so none was run with a real model's weights.**",
    ]
    return "\n".join(lines)
