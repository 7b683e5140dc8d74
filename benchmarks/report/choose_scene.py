"""The scene that the demo shows: of many seeds, the one whose video is most like what its words describe.

For each seed the small Wan generates a dense video. Its likeness is the highest SSIM with 64 true videos of the same
words, which differ in what the words leave open. The highest likeness wins; sparse attention plays no part in it.
Scenes in which nothing moves are left out.

    python -m benchmarks.report.choose_scene                some 10 minutes on one core
    python -m benchmarks.report.choose_scene --seeds 8
"""

from __future__ import annotations

import argparse

import torch
from small_wan.video import Scene
from sparse_vdit.plans.view.metrics import ssim
from torch import Tensor

from benchmarks.quality.small_wan_runs import GRID, STEPS, generate, load_model, random_scene
from benchmarks.quality.truth import true_videos

FIRST_SEED, SEEDS = 60, 16
NOISE_SEED = 5
RENDERINGS = 64


def scene_of(seed: int) -> Scene:
    """The scene that a seed draws."""
    return random_scene(torch.Generator().manual_seed(seed))


def moves(scene: Scene) -> bool:
    """Whether an object changes its place."""
    return any(line[6] != "still" for line in scene.lines[:-2])


def likeness(video: Tensor, scene: Scene) -> float:
    """Highest SSIM, mean over frames, of a video (frames, H, W, 3) with true videos of the scene's words."""
    frames, height, width, _ = video.shape
    others = true_videos([scene], frames, height, width, RENDERINGS)
    return max(ssim(other, video).mean().item() for other in others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}, expected at least 1")
    model, found = load_model(), []
    for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
        scene = scene_of(seed)
        if moves(scene):
            video, _ = generate(model, [scene], None, NOISE_SEED, STEPS, GRID)
            found.append((likeness(video[0], scene), seed))
            print(f"{found[-1][0]:.3f}  seed {seed}: {scene}", flush=True)
    if not found:
        parser.error("no scene of these seeds moves: ask for more")
    print(f"The demo shows seed {max(found)[1]}")


if __name__ == "__main__":
    main()
