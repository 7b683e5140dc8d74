"""The page that the demo writes: videos, figures, plan, what they mean and what to do next, in one file."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path
from string import Template

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sparse-vDiT: the demo's report</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 860px; margin: 2em auto; padding: 0 1em; color: #1b1b1b; }
 h1 { margin-bottom: 0; } h2 { margin: 1.4em 0 .3em; } img { max-width: 100%; }
 table { border-collapse: collapse; } td, th { padding: .2em 1.2em .2em 0; text-align: left; font-weight: normal; }
 td { font-variant-numeric: tabular-nums; } .grey { color: #555; }
</style>
<h1>Sparse-vDiT</h1>
<p class="grey">The same scene, generated twice from the same noise: with all of attention, and with part of it.</p>
<img src="data:image/webp;base64,$video" alt="The dense video, the sparse video and their difference, side by side">
<p>The words were: <i>$scene</i>. Where the right picture is black, both videos are equal.</p>
<h2>What was measured</h2>
<table>$rows</table>
<h2>The plan</h2>
<img src="data:image/png;base64,$plan" alt="Map of the plan: pattern and density of each head">
<p>Each square is an attention head. Its colour says where the head looks, and its fill how much of attention it
computes. The demo measured this on another scene: most heads look at the same places with every prompt.</p>
<h2>What it means</h2>
<p>The video model here is small and was trained for this project. It shows that a sparse video stays close to the dense
one. It does not show the speed on your GPU: real videos have many times as many tokens, and attention takes most of
their time. There the work saved should become time saved, which nobody
has timed on a GPU yet.</p>
<h2>What to do next</h2>
<ol>
<li>Install the node pack in ComfyUI (the README says how).</li>
<li>Put the node <b>Sparse-vDiT Patch</b> between your model loader and your sampler.</li>
<li>Run your workflow, and read the report that the node shows.</li>
</ol>
</html>
""")


def write_page(folder: Path, result: dict, lines: list[str]) -> None:
    """Write report.html, with side_by_side.webp and plan.png of the same folder in it.

    Args:
        result: of the demo; its `scene` is shown.
        lines: `name: what was found` each; the last one, about files, is left out.
    """
    cells = (line.split(": ", 1) for line in lines[:-1])
    rows = "".join(f"<tr><th>{name}</th><td>{with_code(text)}</td></tr>" for name, text in cells)
    video, plan = (embedded(folder / name) for name in ("side_by_side.webp", "plan.png"))
    page = PAGE.substitute(video=video, plan=plan, scene=html.escape(result["scene"]), rows=rows)
    (folder / "report.html").write_text(page, encoding="utf-8")


def with_code(text: str) -> str:
    """A text as HTML, what is in backticks as code."""
    return re.sub("`(.+?)`", r"<code>\1</code>", html.escape(text))


def embedded(file: Path) -> str:
    """A file's bytes as base64."""
    return base64.b64encode(file.read_bytes()).decode("ascii")
