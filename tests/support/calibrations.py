"""Runs that calibrate, without ComfyUI: the policy as `select.py` makes it, on a small Wan and few candidates."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import runs
import torch
from sample_plans import listing
from small_wan.model import SmallWan
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Routed, Skip, VerticalStripe
from sparse_vdit.nodes.host.library.fingerprint import Fingerprint
from sparse_vdit.nodes.host.library.found import FINGERPRINT
from sparse_vdit.nodes.host.library.found_plans import FoundPlans
from sparse_vdit.nodes.host.library.stored import PlanStore
from sparse_vdit.nodes.host.models import WAN
from sparse_vdit.nodes.host.policies.calibrate import CalibrationPolicy
from sparse_vdit.nodes.host.policies.kernel_tuner import KernelTuner
from sparse_vdit.nodes.host.policies.measure import Measurement
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.policies.profile import ProfilePolicy
from sparse_vdit.nodes.host.session.run import Run
from sparse_vdit.plans.plan.card import Card
from sparse_vdit.plans.plan.plan import EVERY_SIGMA, Band, Plan, Provenance
from sparse_vdit.plans.profile.profile import ProfileHeader
from sparse_vdit.plans.profile.profiler import Profiler
from sparse_vdit.plans.search.cost import HeadCosts, profile_costs
from torch import Tensor

GRID = (5, 8, 9)
LAYERS, HEADS, START = 3, 3, 0.9
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


def measurement(
    rows: int = 32,
    fingerprint: Fingerprint = KNOWN,
    sigmas: tuple[float, ...] = SIGMAS,
    known: frozenset[tuple[int, int]] = frozenset(),
    few: bool = False,
) -> Measurement:
    """What a run of the toy measures at these noise levels, a first step of few from its dense start on."""
    network = model()

    def profiling(_: int) -> ProfilePolicy:
        profiler = Profiler("wan", "toy", LAYERS, HEADS, 128, CANDIDATES, BANDS, rows=rows, maps=True)
        return ProfilePolicy(profiler, network, WAN)

    dense = [] if few else [sigma for sigma in sigmas if sigma > START]
    notes = {FINGERPRINT: str(fingerprint)}
    return Measurement(profiling, LAYERS, min(dense, default=inf), notes, sigmas=sigmas, known=known)


def store(folder: Path, fingerprint: Fingerprint | None = KNOWN, sigmas: tuple[float, ...] = SIGMAS) -> PlanStore:
    return PlanStore(folder, "wan", (LAYERS, HEADS, 128), fingerprint, CANDIDATES, sigmas)


def calibration(
    folder: Path,
    preset: str = "fast",
    few: bool = False,
    tuner: KernelTuner | None = None,
    fingerprint: Fingerprint | None = KNOWN,
    sigmas: tuple[float, ...] = SIGMAS,
    costs: Callable[[ProfileHeader], HeadCosts] = profile_costs,
    shipped: Plan | None = None,
) -> Run:
    """A run about to begin, as `select.py` makes it."""
    found = FoundPlans(store(folder, fingerprint, sigmas), preset, GRID, costs, shipped)
    begin = max(START, found.measured_up_to() if few else 0.0)
    backend = "torch" if tuner is None else "auto"
    measures = measurement(fingerprint=fingerprint or KNOWN, sigmas=sigmas, known=found.known(), few=few)
    policy = CalibrationPolicy(
        "wan, calibrating",
        (LAYERS, HEADS),
        found,
        measures if found.wants_more() else None,
        lambda plan: PlanPolicy(plan, begin, 0.0, backend, tuner),
        found.plan,
        tuner,
        START,
        0.0,
        shipped if shipped is not None and shipped.grade == "prior" else None,
        few,
    )
    return runs.run_of(policy)


def toy(grade: str, least: float = 0.0, kept_dense: tuple = ()) -> Plan:
    """A shipped plan for the toy model above."""
    patterns = (Dense(), Routed(0.3))
    number = 1 if grade == "prior" else 0
    band = Band(EVERY_SIGMA, 0.0, ((number,) * HEADS,) * LAYERS)
    card = Card("Toy", "its density", "its patterns", least, kept_dense=kept_dense)
    plan = Plan("wan", LAYERS, HEADS, 128, GRID, patterns, (band,), grade, Provenance(model="Toy"), card)
    return plan.named(f"wan/toy.{grade}")


def qkv(seed: int, grid: tuple[int, int, int] = GRID) -> list[Tensor]:
    """Of heads that look near by: keys and queries follow the place in the frame."""
    generator = torch.Generator().manual_seed(seed)
    frames, height, width = grid
    places = torch.randn(height * width, 128 * HEADS, generator=generator).repeat(frames, 1)
    q, k, v = (torch.randn(1, frames * height * width, 128 * HEADS, generator=generator) for _ in range(3))
    return [0.7 * places + q, 0.7 * places + k, v]


def forward(run: Run, sigma: float, seed: int = 0, grid: tuple[int, int, int] = GRID, **call: object) -> list[bool]:
    """One forward; whether each layer ran sparse."""
    runs.forward(run, sigma, lambda layer: qkv(7 * seed + layer, grid), grid, **call)
    return runs.ran_sparse(run)


def generate(run: Run, sigmas: tuple[float, ...] = SIGMAS, **call: object) -> list[list[bool]]:
    """A whole run, ended as ComfyUI and the patch node end it."""
    sparse = [forward(run, sigma, seed, **call) for seed, sigma in enumerate(sigmas)]
    run.free()
    run.policy.keep()
    return sparse


@cache
def first_run() -> dict[str, bytes]:
    """Files that the first run of all keeps, by their names; it ended early, so that the second adds to them."""
    with TemporaryDirectory() as folder:
        generate(calibration(Path(folder)), SIGMAS[:3])
        return listing(Path(folder))


ALL, NONE = [True] * LAYERS, [False] * LAYERS
