"""Writes the README's tables from the result files, between `<!-- table: NAME -->` and `<!-- end -->`.

python benchmarks/tables.py          # rewrites README.md
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"


def newest(benchmark: str) -> dict:
    """The latest result file of a benchmark."""
    files = sorted(RESULTS.glob(f"{benchmark}-*.json"), key=lambda file: json.loads(file.read_text())["date"])
    if not files:
        sys.exit(f"no results of {benchmark} in {RESULTS.relative_to(ROOT)}; run benchmarks/{benchmark}.py first")
    return json.loads(files[-1].read_text())


def quality_table() -> str:
    """Searched plans, the best single pattern at each plan's density, and the paper's rule."""
    result = newest("quality")
    rows = result["rows"]
    lines = ["| pattern of the heads | density | PSNR, dB | SSIM | flicker | loss |", "|---|---|---|---|---|---|"]
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and rows[end]["method"] == "uniform":
            end += 1
        shown = [rows[start]]
        if end > start + 1:
            shown.append(max(rows[start + 1 : end], key=lambda row: row["psnr"]))
        for row in shown:
            name = {
                "dense": "dense",
                "ours_budget": "searched plan, one error budget",
                "ours_paper": f"searched plan, {row['rule']}",
                "uniform": f"best of {end - start - 1} single patterns for all heads: {row['rule']}",
            }[row["method"]]
            name += "" if row["warmup"] else ", sparse from the first step on"
            psnr = "-" if row["psnr"] is None else f"{row['psnr']:.1f}"
            cells = [name, f"{row['density']:.2f}", psnr, f"{row['ssim']:.3f}", f"{row['flicker']:.4f}"]
            lines.append(f"| {' | '.join(cells)} | {row['loss']:.4f} |")
        start = end
    first = rows[0]
    grid = "x".join(map(str, first["grid"]))
    lines += [
        "",
        f"Mean of {first['prompts']} prompts that the profile has not seen, against the dense video of the same seed; "
        f"{grid} tokens, 20 steps, the first {first['warmup']:.0%} dense; densities of the other steps, with tiles of "
        "32x16 tokens in proportion to the small video. Flicker: root mean "
        "square of the difference of frame differences. Loss: flow matching, on true videos the training has not seen. "
        f"`{result['command']}`, {result['device']}, {result['date']}.",
    ]
    return "\n".join(lines)


TABLES = {"quality": quality_table}


def main() -> None:
    text = README.read_text()
    for name, make in TABLES.items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        if not re.search(pattern, text, re.S):
            sys.exit(f"README.md has no place for table {name}")
        text = re.sub(pattern, lambda found, make=make: f"{found[1]}{make()}\n{found[2]}", text, flags=re.S)
    README.write_text(text)


if __name__ == "__main__":
    main()
