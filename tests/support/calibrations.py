"""Runs that calibrate, without ComfyUI: the engine as the patch node makes it, on a small Wan and few candidates."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sample_plans import listing
from small_wan.model import SmallWan
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Routed, Skip, VerticalStripe
from sparse_vdit.nodes.host.attention.attention_op import split_heads
from sparse_vdit.nodes.host.calibration.calibrated_model import CalibratedModel
from sparse_vdit.nodes.host.calibration.calibrated_plan import FINGERPRINT
from sparse_vdit.nodes.host.calibration.calibration import CalibrationEngine
from sparse_vdit.nodes.host.calibration.kept_plans import KeptPlans
from sparse_vdit.nodes.host.calibration.measuring import Measuring
from sparse_vdit.nodes.host.families import WAN
from sparse_vdit.nodes.host.plan_choice.fingerprint import Fingerprint
from sparse_vdit.nodes.host.plan_choice.plan_names import named
from sparse_vdit.nodes.host.runs.engine import Call
from sparse_vdit.nodes.host.runs.plan_engine import PlanEngine
from sparse_vdit.nodes.host.runs.profile_engine import ProfileEngine
from sparse_vdit.nodes.host.runs.run import Run
from sparse_vdit.nodes.host.speed.kernel_choice import KernelChoice
from sparse_vdit.nodes.host.speed.race import Race
from sparse_vdit.plans.plan.card import Card
from sparse_vdit.plans.plan.plan import EVERY_SIGMA, Band, Plan, Provenance
from sparse_vdit.plans.profile.profile import ProfileHeader
from sparse_vdit.plans.profile.profiler import Profiler
from sparse_vdit.plans.search.cost import HeadCosts, profile_costs

GRID = (5, 8, 9)
LAYERS, START = 3, 0.9
SIGMAS = (1.0, 0.95, 0.6, 0.3)
BANDS = ((EVERY_SIGMA, START), (START, 0.45), (0.45, 0.0))
CANDIDATES = (
    Dense(),
    Skip(),
    Diagonal(0),
    Diagonal(1, 0.3, 0.3),
    MultiDiagonal(0.1, 0.1),
    VerticalStripe(),
    Routed(0.4),
)


def fingerprint_like(factor: float, dtype: str = "float32") -> Fingerprint:
    """Of a model whose numbers are so many times those of `KNOWN`; float16 as in files."""
    return Fingerprint(dtype, tuple((torch.arange(40) / 7 * factor).half().tolist()))


KNOWN = fingerprint_like(1.0)
COPY = fingerprint_like(1.05, "float8_e4m3fn")
"""The same model as KNOWN, rounded to 8 bits."""


def model(layers: int = LAYERS) -> SmallWan:
    torch.manual_seed(5)
    return SmallWan(num_layers=layers)


def measuring(
    steps: int,
    prompt: str = "prompt a",
    rows: int = 32,
    fingerprint: Fingerprint = KNOWN,
    sigmas: tuple[float, ...] = SIGMAS,
    known: frozenset[tuple[int, int]] = frozenset(),
) -> Measuring:
    network = model()

    def engine(_: int) -> ProfileEngine:
        profiler = Profiler("wan", "toy", LAYERS, 3, 128, CANDIDATES, BANDS, rows=rows, prompts=(prompt,), maps=True)
        return ProfileEngine(profiler, network, WAN)

    later = sorted({sigma for sigma in sigmas if sigma <= START})
    return Measuring(engine, LAYERS, steps, {FINGERPRINT: str(fingerprint)}, later=later, known=known)


def kept(folder: Path, fingerprint: Fingerprint | None = KNOWN, sigmas: tuple[float, ...] = SIGMAS) -> KeptPlans:
    return KeptPlans(folder, "wan", (LAYERS, 3, 128), fingerprint, CANDIDATES, sigmas)


def calibration(
    folder: Path,
    steps: int = 2,
    prompt: str = "prompt a",
    preset: str = "fast",
    few: bool = False,
    race: Race | None = None,
    fingerprint: Fingerprint | None = KNOWN,
    sigmas: tuple[float, ...] = SIGMAS,
    costs: Callable[[ProfileHeader], HeadCosts] = profile_costs,
    shipped: Plan | None = None,
) -> Run:
    """A run about to begin, as `choice.py` makes it; `steps` of its sampler are dense."""
    found = CalibratedModel(kept(folder, fingerprint, sigmas), preset, GRID, costs, shipped)
    begin = max(START, found.measured_up_to() if few else 0.0)
    backend = "torch" if race is None else "auto"
    measures = measuring(steps, prompt, fingerprint=fingerprint or KNOWN, sigmas=sigmas, known=found.known())
    engine = CalibrationEngine(
        "wan, calibrating",
        (LAYERS, 3),
        found,
        measures if found.wants(prompt) else None,
        lambda plan: PlanEngine(plan, begin, 0.0, backend, race=race),
        found.plan,
        KernelChoice(race),
        START,
        0.0,
        shipped if shipped is not None and shipped.grade == "prior" else None,
    )
    return Run(engine, function=None)


def toy(grade: str, least: float = 0.0, kept_dense: tuple = ()) -> Plan:
    """A shipped plan for the toy model above."""
    patterns = (Dense(), Routed(0.3))
    number = 1 if grade == "prior" else 0
    band = Band(EVERY_SIGMA, 0.0, ((number,) * 3,) * LAYERS)
    card = Card("Toy", "its density", "its patterns", least, kept_dense=kept_dense)
    plan = Plan("wan", LAYERS, 3, 128, GRID, patterns, (band,), grade, Provenance(model="Toy"), card)
    return named(plan, f"wan/toy.{grade}")


def qkv(seed: int, grid: tuple[int, int, int] = GRID, batch: int = 1) -> tuple[torch.Tensor, ...]:
    """Of heads that look near by: keys and queries follow the place in the frame."""
    generator = torch.Generator().manual_seed(seed)
    frames, height, width = grid
    places = torch.randn(height * width, 384, generator=generator).repeat(frames, 1)
    noise = [torch.randn(batch, frames * height * width, 384, generator=generator) for _ in range(3)]
    return tuple(split_heads(x, 3, False) for x in (0.7 * places + noise[0], 0.7 * places + noise[1], noise[2]))


def forward(
    run: Run,
    sigma: float,
    seed: int = 0,
    grid: tuple[int, int, int] = GRID,
    layers: range = range(LAYERS),
    **call: object,
) -> list[bool]:
    """One forward; whether each layer ran sparse."""
    run.reason = run.stopped or run.engine.reason(sigma)
    run.begin_forward(torch.device("cpu"), sigma)
    if run.reason is None:
        run.prepare((*grid, 0, 0), 1, torch.device("cpu"))
    sparse = []
    for layer in layers:
        with_layer = Call(layer, (*grid, 0, 0), *qkv(7 * seed + layer, grid), **call)
        sparse.append(run.attend(with_layer) is not None)
        with run.timing_dense():
            pass
    run.forget_blocks()
    return sparse


def generate(run: Run, sigmas: tuple[float, ...] = SIGMAS, **call: object) -> list[list[bool]]:
    """A whole run, ended as ComfyUI and the patch node end it."""
    sparse = [forward(run, sigma, seed, **call) for seed, sigma in enumerate(sigmas)]
    run.free()
    run.engine.keep()
    return sparse


@cache
def first_run() -> dict[str, bytes]:
    """Files that the first run of all keeps, by their names."""
    with TemporaryDirectory() as folder:
        generate(calibration(Path(folder)))
        return listing(Path(folder))


ALL, NONE = [True] * LAYERS, [False] * LAYERS
