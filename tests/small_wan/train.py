"""Trains the small Wan by flow matching (velocity = noise - video), as Wan does.

    python -m small_wan.train --minutes 300 --seed 9 --compile --out runs/small_wan             # CPU, hours, in stages
    python -m small_wan.train --minutes 25 --seed 9 --compile --device cuda --clips 8 --out runs/small_wan     # GPU

Run from tests/; a folder that has a run is resumed, with its own seed. `--clips 8` puts eight times as many clips into
every step, also when it is resumed, until another number is given.
Saves `checkpoint.pt` (to resume), `loss.csv` (step, seconds, mean loss since the last line) and, at the end or with
`--export`, the averaged weights in fp16 as ComfyUI loads them.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from .model import SmallWan
from .sample import SHIFT, ReadError, read
from .video import sample_batch

# (frames, latent height, latent width, batch): about 3,000 tokens a step, at most 2,000 a clip, odd sizes among them
STILLS = ((1, 16, 24, 32), (1, 18, 22, 30), (1, 24, 30, 16), (1, 48, 56, 4))
CLIPS = (
    (5, 16, 24, 6),
    (9, 16, 24, 4),
    (5, 24, 30, 3),
    (9, 24, 30, 2),
    (13, 18, 22, 2),
    (5, 32, 42, 2),
    (7, 28, 34, 2),
)
LARGE = ((9, 36, 42, 1), (13, 36, 42, 1), (13, 48, 56, 1))  # 3,402 to 8,736 tokens: as long as ten other steps
STILL_SHARE = (0.5, 0.1)  # of the steps, at the beginning and at the end
LARGE_SHARE = 0.03
LOG_EVERY = 50
SEED_SPACING = 1_000_000  # between the data of two trainings: more than steps
MAX_SEED = 18  # evaluations draw scenes from seeds below SEED_SPACING and from 20 of them on
EMA_DECAY = 0.998


def noisy(latent: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, timesteps (B,) in 0..1000 and target velocity.

    Most times lie where sampling spends its steps, close to noise: an object of many pixels shows through all but the
    last few percent of noise, so only there the words decide what it becomes. The rest is uniform, for the details.
    """
    uniform, detail = torch.rand(2, latent.shape[0], generator=generator)
    time_ = torch.where(detail < 0.25, uniform, SHIFT * uniform / (1 + (SHIFT - 1) * uniform))
    noise = torch.randn(latent.shape, generator=generator)  # the CPU's: a step is the same on every device
    time_, noise = time_.to(latent.device), noise.to(latent.device)
    t = time_.view(-1, 1, 1, 1, 1)
    return (1 - t) * latent + t * noise, 1000 * time_, noise - latent


def choose_shape(progress: float, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Frames, latent height and width, batch: mostly stills at first, mostly clips at the end.

    What a thing looks like is learned from stills, eight times as many scenes per step; how it moves, from clips.
    """
    still = STILL_SHARE[0] + (STILL_SHARE[1] - STILL_SHARE[0]) * progress
    choice = torch.rand((), generator=generator)
    shapes = STILLS if choice < still else CLIPS if choice < 1 - LARGE_SHARE else LARGE
    return shapes[int(torch.randint(len(shapes), (), generator=generator))]


def make_optimizers(model: SmallWan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else.

    A step of AdamW moves an output by about rate * inputs, so the 4096-wide text embedding needs a small rate: with the
    common one its words never settle.
    """
    matrices = [
        p for n, p in model.named_parameters() if n.startswith("blocks.") and n.endswith("weight") and p.ndim == 2
    ]
    words = [model.text_embedding[0].weight]
    chosen = {id(p) for p in (*matrices, *words)}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01),
        torch.optim.AdamW(words, lr=4e-5, betas=(0.9, 0.98), weight_decay=0.0),
    ]


class Run:
    """Everything that a training resumes from."""

    def __init__(self, folder: Path, seed: int, device: str = "cpu", clips: int | None = None):
        self.folder, self.seed, self.device, self.clips = folder, seed, device, clips or 1
        torch.manual_seed(seed)
        self.model = SmallWan().to(device)
        self.average = copy.deepcopy(self.model)
        self.optimizers = make_optimizers(self.model)
        self.peak_lr = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.step, self.seconds, self.stage_start, self.log = 0, 0.0, 0.0, []
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "checkpoint.pt").exists():
            self.resume()
            self.clips = clips or self.clips

    def begin_with(self, file: Path) -> None:
        """Take the weights of a file, and nothing else of the run that made them."""
        with read(file):
            weights = {name: value.float() for name, value in load_file(file).items()}
            self.model.load_state_dict(weights)
            self.average.load_state_dict(weights)

    def resume(self) -> None:
        file = self.folder / "checkpoint.pt"
        with read(file):
            state = torch.load(file, weights_only=True, map_location="cpu")
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
            self.stage_start = state["stage_start"]
        self.seed = state.get("seed", self.seed)  # runs of before it was kept have none
        self.clips = state.get("clips", self.clips)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "seed": self.seed,
            "clips": self.clips,
            "step": self.step,
            "seconds": self.seconds,
            "stage_start": self.stage_start,
            "log": self.log,
        }
        part = self.folder / "checkpoint.part"
        torch.save(state, part)
        part.replace(self.folder / "checkpoint.pt")  # never half a checkpoint
        lines = [f"{step},{seconds:.0f},{loss:.5f}" for step, seconds, loss in self.log]
        (self.folder / "loss.csv").write_text("\n".join(["step,seconds,loss", *lines]) + "\n")

    def train_step(self, progress: float, compiled: torch.nn.Module) -> float:
        """One step; returns the loss. Its batch depends on seed, step number and, by the share of stills, on progress.

        Progress is the part of the given time that is over: steps repeat exactly only at the same progress.
        """
        generator = torch.Generator().manual_seed(self.seed * SEED_SPACING + self.step)
        frames, height, width, batch = choose_shape(progress, generator)
        batch *= self.clips
        latent, context = sample_batch(batch, frames, height, width, generator, self.device)
        keep = torch.rand(batch, generator=generator) > 0.1  # the rest learns to do without words, for guidance
        noised, timestep, target = noisy(latent, generator)
        rate = min(1.0, self.step / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
        for optimizer, peak in zip(self.optimizers, self.peak_lr, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate
        context = context * keep[:, None, None].to(self.device)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            velocity = compiled(noised, timestep, context)
        loss = F.mse_loss(velocity.float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        decay = min(EMA_DECAY, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return loss.item()


def export(model: SmallWan, file: Path, run: Run) -> None:
    """Weights in fp16 with the keys of a Wan 2.1 checkpoint."""
    tensors = {name: value.half().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, file, metadata={"seed": str(run.seed), "steps": str(run.step), "seconds": f"{run.seconds:.0f}"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=110, help="whole training, resumed parts included")
    parser.add_argument("--out", type=Path, default=Path("runs/small_wan"))
    parser.add_argument("--seed", type=int, help="of a new run's data; 7 by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clips", type=int, help="factor on the clips of a step, for large devices; 1 in a new run")
    parser.add_argument("--compile", action="store_true", help="torch.compile; needs a C++ compiler")
    parser.add_argument("--init", type=Path, help="weights to begin a new run with, for example the shipped ones")
    parser.add_argument("--new-stage", action="store_true", help="on resuming, begin the rate's schedule anew")
    parser.add_argument("--export", type=Path, help="write the averaged weights here and train no further")
    args = parser.parse_args()
    if not 0 < args.minutes < math.inf:
        parser.error(f"--minutes {args.minutes} is not above 0")
    if args.clips is not None and args.clips < 1:
        parser.error(f"--clips {args.clips} is not at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no such device here")
    if args.init and not args.init.is_file():
        parser.error(f"--init {args.init}: there is no such file")
    resumed = (args.out / "checkpoint.pt").is_file()
    for name in ("export", "new_stage"):
        if getattr(args, name) and not resumed:
            parser.error(f"--{name.replace('_', '-')}: {args.out} has no checkpoint; name a run's folder with --out")
    if args.export and (args.export.is_dir() or not args.export.absolute().parent.is_dir()):
        parser.error(f"--export {args.export}: name a file in a folder that exists")
    if resumed and args.init:
        parser.error(f"--init: {args.out} has a run already, which goes on with its own weights; choose another --out")
    seed = 7 if args.seed is None else args.seed
    if not 1 <= seed <= MAX_SEED:
        parser.error(f"--seed {seed}: take 1 to {MAX_SEED}, evaluations use the data of others")
    try:
        run = Run(args.out, seed, args.device, args.clips)
        if args.init:
            run.begin_with(args.init)
    except (OSError, ReadError) as error:
        parser.error(f"{error}; choose another {'--init or --out' if args.init else '--out'}")
    if resumed and args.seed not in (None, run.seed):
        parser.error(f"--seed {args.seed}: {args.out} has a run of seed {run.seed}; leave --seed out to resume it")
    if args.export:
        export(run.average, args.export, run)
        return
    so_far = f"{run.step} steps and {run.seconds / 60:.1f} minutes so far"
    clips = f", {run.clips} times the clips" if run.clips > 1 else ""
    print(f"Training in {args.out}, seed {run.seed}{clips}, {so_far}, {args.minutes:g} in all", flush=True)
    torch._dynamo.config.recompile_limit = 2 * len(STILLS + CLIPS + LARGE)  # beyond it shapes run uncompiled
    compiled = torch.compile(run.model, dynamic=False) if args.compile else run.model
    if args.new_stage:
        run.stage_start = run.seconds
    limit, start, recent = 60 * args.minutes, time.time() - run.seconds, []
    while run.seconds < limit:
        recent.append(run.train_step((run.seconds - run.stage_start) / (limit - run.stage_start), compiled))
        run.seconds = time.time() - start
        if run.step % LOG_EVERY == 0:
            run.log.append((run.step, run.seconds, sum(recent) / len(recent)))
            print(f"step {run.step}  {run.seconds:.0f} s  loss {run.log[-1][2]:.4f}", flush=True)
            recent = []
        if run.step % (4 * LOG_EVERY) == 0:
            run.save()
    run.save()
    export(run.average, args.out / "small_wan.safetensors", run)


if __name__ == "__main__":
    main()
