"""Calibration in the run: the patch node without a plan in a real ComfyUI, on the small Wan: the first generation, the
second, and one of few steps; what measuring takes beside the dense steps.

    python -m benchmarks.quality.calibration                       # 14x24x26 tokens, 10 steps, then 4
    python -m benchmarks.quality.calibration --grid 9 12 15

Writes benchmarks/results/calibration-<device>-<date>.json. Seconds are the whole workflow's, on a server that is warm.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

from comfyui.fixtures import with_models
from comfyui.installation import comfyui_path
from comfyui.prompts import ksampler, node, patched
from comfyui.results import counts, latents, report
from comfyui.server import Server

from benchmarks.report.results import save_results

FEW = 4


def workflow(grid: tuple[int, int, int], steps: int) -> dict:
    """One prompt, one forward per step, the patch node as users have it but for the race and the dense start."""
    frames, height, width = grid
    sizes = {"width": 16 * width, "height": 16 * height, "length": 4 * (frames - 1) + 1}
    latent = node("EmptyHunyuanLatentVideo", batch_size=1, **sizes)
    return {**patched(None, few_steps="auto"), "latent": latent, "sampler": ksampler(("patch", 0), steps, cfg=1.0)}


def generation(server: Server, name: str, grid: tuple[int, int, int], steps: int) -> dict:
    """A row of the result file."""
    before, began = len(server.log_text()), time.time()
    latents(server, workflow(grid, steps))
    seconds, line = time.time() - began, report(server, before)
    sparse, dense = counts(line)
    row = {"generation": name, "grid": list(grid), "steps": steps, "seconds": round(seconds, 1)}
    row |= {"sparse_calls": sparse, "dense_calls": dense, "report": line[line.index("Sparse-vDiT") :]}
    measured = re.search(r"measured (\d+) calls in ([\d.]+) s, ([\d.]+)% on top", line)
    if measured is not None:
        row |= {"measured_calls": int(measured[1]), "measured_seconds": float(measured[2])}
        row["share_of_dense_steps"] = round(float(measured[3]) / 100, 4)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, nargs=3, default=(14, 24, 26), help="tokens in time, height and width")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    comfyui = comfyui_path()
    if comfyui is None:
        sys.exit("no ComfyUI was found: set COMFYUI_PATH to one")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(comfyui, with_models(Path(folder)))
        try:
            latents(server, {**workflow((3, 4, 5), 1), "sampler": ksampler(("model", 0), 1)})  # loads the model
            steps = {"first": args.steps, "second": args.steps, "few steps": FEW}
            rows = [generation(server, name, tuple(args.grid), count) for name, count in steps.items()]
        finally:
            server.stop()
    for row in rows:
        print(row)
    print("Written to", save_results("calibration", rows))


if __name__ == "__main__":
    main()
