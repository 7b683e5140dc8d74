"""Drives runs as ComfyUI does, without it: every forward goes through the pack's own wrappers and blocks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TypeVar

import torch
from comfyui_stand_ins import host_module
from dense_attention import model_attention
from model_stand_ins import of_shape
from sparse_vdit.kernels.patterns import Pattern
from sparse_vdit.nodes.host.core.stats import SPARSE
from sparse_vdit.nodes.host.hooks.compile_op import CHAINED, attention_op
from sparse_vdit.nodes.host.hooks.override import attention_override
from sparse_vdit.nodes.host.hooks.own_attention import COMFYUI_ATTENTION
from sparse_vdit.nodes.host.hooks.replaced import OVERRIDE, Watch
from sparse_vdit.nodes.host.hooks.sampled import Sampled, opened
from sparse_vdit.nodes.host.models import UNNAMED, detect
from sparse_vdit.nodes.host.policies.kernel_tuner import KernelTuner
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session.run import Run
from sparse_vdit.nodes.host.ui.summary import report_of
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance, uniform_plan
from torch import Tensor, nn

install = host_module("hooks.install")

GRID, HEADS = (5, 8, 11), 3
TOKENS = 5 * 8 * 11
CPU = torch.device("cpu")
Out = TypeVar("Out")


def policy(
    pattern: Pattern, start: float = 1.0, end: float = 0.0, layers: int = 4, backend: str = "torch"
) -> PlanPolicy:
    """One pattern for all heads of a Wan, between two noise levels."""
    return PlanPolicy(uniform_plan("wan", layers, HEADS, 128, GRID, pattern), start, end, backend)


def plan_of(rows: list[Pattern], heads: int = 2, head_dim: int = 64, grid: tuple[int, int, int] = GRID) -> Plan:
    """One pattern for all heads of each layer."""
    patterns = tuple(dict.fromkeys(rows))
    band = Band(1.0, 0.0, tuple((patterns.index(pattern),) * heads for pattern in rows))
    return Plan("wan", len(rows), heads, head_dim, grid, patterns, (band,), "measured", Provenance())


def run_of(policy: PlanPolicy, clock: object = None, chained: Callable | None = None) -> Run:
    """A run on a model whose own attention is `dense_attention.model_attention`."""
    return Run(policy, (model_attention, chained), clock)


def tuned(plan: Plan, clock: object, start: float = 0.8) -> Run:
    """A run whose warm-up ends at sigma `start`, with a tuner that a clock tells times."""
    return run_of(PlanPolicy(plan, start, 0.0, "auto", KernelTuner()), clock)


def qkv(
    batch: int = 1, tokens: int = TOKENS, heads: int = HEADS, head_dim: int = 128, seed: int = 4
) -> list[Tensor]:
    """Random q, k, v (B, S, H*D)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, tokens, heads * head_dim, generator=generator) for _ in range(3)]


@contextmanager
def comfyui_attention() -> Iterator[None]:
    """ComfyUI's own attention is there, as always where its models run."""
    known = sys.modules.get(COMFYUI_ATTENTION)
    sys.modules[COMFYUI_ATTENTION] = known or SimpleNamespace(optimized_attention=model_attention)
    try:
        yield
    finally:
        if known is None:
            del sys.modules[COMFYUI_ATTENTION]


class Executor:
    """What ComfyUI's wrappers are handed: the next function, and whose it is."""

    def __init__(self, function: Callable, class_obj: object):
        self.function, self.class_obj = function, class_obj

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.function(*args, **kwargs)


def run_forward(
    run: Run,
    sigma: float,
    body: Callable[[dict], Out],
    grid: tuple[int, ...] = GRID,
    batch: int = 1,
    device: torch.device = CPU,
    options: dict | None = None,
    model: nn.Module | None = None,
) -> Out:
    """One forward at a noise level, as `hooks/install.py` runs it: twice where the run wants that.

    Args:
        body: what the model does with the transformer_options of its forward.
        grid: (frames, height, width) in tokens, and (.., prefix) where text is in self-attention.
        options: more transformer_options.
        model: stand-in that the forward is of; of the policy's family and shape by default.
    """
    if model is None:
        model = of_shape(*run.policy.shape, len(grid) > 3)
    if run.watch is None:
        run.watch = Watch(SimpleNamespace(), model, run.policy.shape[0])
    latents = torch.zeros(batch, 16, grid[0], 2 * grid[1], 2 * grid[2], device=device)
    context = torch.zeros(batch, grid[3] if len(grid) > 3 else 7, 8, device=device)
    given = {OVERRIDE: attention_override, CHAINED: run.own[1] if run.own else None, **(options or {})}

    def apply(x: Tensor, t: Tensor, concat: None, context: Tensor, control: None, options: dict) -> Out:
        forward = Executor(lambda *args, transformer_options: body(transformer_options), model)
        return install._diffusion_model(forward, x, t, context, transformer_options=options.copy())

    whole = SimpleNamespace(diffusion_model=model)
    executor = Executor(apply, whole)
    sampled = Sampled(SimpleNamespace(model=whole), lambda sampling: run.policy, lambda run: None, first=True, run=run)
    sigmas = torch.full((batch,), sigma, dtype=torch.float64)
    with opened(sampled), install.running(run), comfyui_attention():
        return install._apply_model(executor, latents, sigmas, None, context, None, given)


def in_blocks(model: nn.Module, options: dict, block: Callable[[int, dict], Out]) -> list[Out]:
    """Run `block(layer, transformer_options)` for each block of a model, through what was put around it."""
    found: list[Out] = []
    for name, count in detect(model).blocks(model):
        for number in range(count):
            layer = len(found)

            def original(args: dict, layer: int = layer) -> dict:
                return {"img": block(layer, args["transformer_options"])}

            around = options.get("patches_replace", {}).get("dit", {}).get((name, number))
            if name == UNNAMED or around is None:  # without a run nothing is around
                found.append(block(layer, options))
            else:
                args = {"transformer_options": options, "img": None}
                found.append(around(args, {"original_block": original})["img"])
    return found


def attend(x: list[Tensor], heads: int, options: dict, own: Callable = model_attention, **call: object) -> Tensor:
    """An attention call (B, S, H*D) as ComfyUI makes it."""
    if OVERRIDE not in options:
        return own(*x, heads, **call)
    return options[OVERRIDE](own, *x, heads, transformer_options=options, **call)


def forward(
    run: Run,
    sigma: float,
    x: list[Tensor] | Callable[[int], list[Tensor]],
    grid: tuple[int, ...] = GRID,
    own: Callable = model_attention,
    layers: range | None = None,
    **call: object,
) -> list[Tensor]:
    """One forward in which each block makes its self-attention call; their outputs.

    Args:
        x: q, k, v (B, S, H*D) of all layers, or of a layer.
        own: the model's own attention.
        layers: that call; all by default.
        call: more arguments of the calls, such as a mask.
    """
    given = x if callable(x) else lambda layer: x
    first = given(0)[0]
    model = of_shape(*run.policy.shape, len(grid) > 3)

    def block(layer: int, options: dict) -> Tensor | None:
        if layers is not None and layer not in layers:
            return None
        return attend(given(layer), run.policy.shape[1], options, own, **call)

    def body(options: dict) -> list[Tensor]:
        return in_blocks(model, options, block)

    return run_forward(run, sigma, body, grid, first.shape[0], first.device, model=model)


def forward_by_operator(
    run: Run, sigma: float, x: list[Tensor], grid: tuple[int, int, int] = GRID, numbers: list[int] | None = None
) -> list[Tensor]:
    """One forward of a model that is compiled whole, which calls the operator and says nothing between its blocks.

    Args:
        numbers: of the blocks; all by default.
    """

    def body(options: dict) -> list[Tensor]:
        run.forget_blocks()
        layers = range(run.policy.shape[0]) if numbers is None else numbers
        sizes, heads = (*grid, 0, 0), run.policy.shape[1]
        return [attention_op(*x, heads, torch.tensor(layer), sizes, False, False, "", []) for layer in layers]

    return run_forward(run, sigma, body, grid, x[0].shape[0], x[0].device)


def ran_sparse(run: Run) -> list[bool]:
    """Of the forward that ended: whether each layer ran sparse."""
    counts = run.stats.forward.layers
    return [layer in counts and counts[layer][SPARSE] > 0 for layer in range(run.policy.shape[0])]


def line(run: Run) -> str:
    """The report's line."""
    return str(report_of(run))


def dense_calls(run: Run) -> dict:
    """Dense calls of the run by reason."""
    return dict(run.stats.total().dense)


def sparse_calls(run: Run) -> int:
    """Sparse calls of the run."""
    return run.stats.total().sparse
