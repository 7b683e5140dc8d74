"""A compiled model's blocks keep their numbers and its videos their layouts, however the compiler cuts the code."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from dense_attention import model_attention
from model_stand_ins import CogVideoXTransformer3DModel, WanModel
from runs import dense_calls, line, run_forward, run_of, sparse_calls
from sparse_vdit.kernels.patterns import Diagonal, MultiDiagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.hooks import compile_op
from sparse_vdit.nodes.host.hooks.blocks import describe_forward
from sparse_vdit.nodes.host.models import COGVIDEOX, WAN, Family
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session.run import Run
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance
from tolerances import SAMPLED, relative_l2
from torch import Tensor, nn

BLOCKS, HEADS, HEAD_DIM = 12, 2, 64  # more blocks than a compiler makes variants of one piece of code
DIM = HEADS * HEAD_DIM
LANDSCAPE, PORTRAIT = (5, 16, 22), (5, 22, 16)  # in latents; patches of 2 x 2 make as many tokens of both
GRIDS = {LANDSCAPE: (5, 8, 11), PORTRAIT: (5, 11, 8)}


class Block(nn.Module):
    """Self-attention, and cross-attention to another number of tokens."""

    def __init__(self, breaks: bool):
        super().__init__()
        self.breaks, self.qkv = breaks, nn.Linear(DIM, 3 * DIM)

    def forward(self, x: Tensor, transformer_options: dict) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.breaks:
            torch._dynamo.graph_break()
        x = x + self.attend(q, k, v, transformer_options)
        return x + self.attend(x, v[:, :7], v[:, :7], transformer_options)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, transformer_options: dict) -> Tensor:
        ours = transformer_options["optimized_attention_override"]
        return ours(model_attention, q, k, v, HEADS, transformer_options=transformer_options)


class Forward:
    """A model's forward with the pack around it, as ComfyUI calls it."""

    family: Family = WAN
    stand_in: Callable = WanModel

    def model(self, breaks: bool) -> nn.Module:
        torch.manual_seed(1)
        model = self.stand_in()
        model.blocks = nn.ModuleList([Block(breaks) for _ in range(BLOCKS)])
        return model

    def run(self, model: nn.Module, latent: Tensor, transformer_options: dict) -> Tensor:
        describe_forward(transformer_options, self.family, model, {"x": latent, "context": torch.zeros(1, 0, 8)})
        around = transformer_options.get("patches_replace", {}).get("dit", {})
        tokens = nn.functional.pixel_unshuffle(latent[0].transpose(0, 1), 2).sum(1).flatten()
        x = tokens[None, :, None] * torch.linspace(0.5, 1.5, DIM)
        for number, block in enumerate(model.blocks):

            def original(args: dict, block: nn.Module = block) -> dict:
                return {"img": block(args["img"], args["transformer_options"])}

            args = {"img": x, "transformer_options": transformer_options}
            patch = around.get(("double_block", number))
            x = (original(args) if patch is None else patch(args, {"original_block": original}))["img"]
        return x


class CountedForward(Forward):
    """One whose blocks cannot be replaced."""

    family, stand_in = COGVIDEOX, CogVideoXTransformer3DModel


def keep(guards: list) -> list[bool]:
    """ComfyUI's compiler drops the guards on transformer_options."""
    return ["transformer_options" not in guard.name for guard in guards]


def compiled(function: Callable) -> Callable:
    return torch.compile(function, backend="eager", options={"guard_filter_fn": keep})


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch._dynamo.reset()
    monkeypatch.setattr(compile_op._here.state, "sampling", True)
    yield
    compile_op.forget_forward()
    torch._dynamo.reset()


def plan(family: str) -> Plan:
    """Every layer another window."""
    patterns = tuple(Diagonal(0, 0.1 + 0.05 * n) if n % 2 else MultiDiagonal(0.03 * n, None) for n in range(BLOCKS))
    band = Band(1.0, 0.0, tuple((n,) * HEADS for n in range(BLOCKS)))
    return Plan(family, BLOCKS, HEADS, HEAD_DIM, GRIDS[LANDSCAPE], patterns, (band,), "measured", Provenance())


@torch.inference_mode()
def sample(forward: Forward, function: Callable, model: nn.Module, size: tuple[int, int, int]) -> tuple[Tensor, Run]:
    """One forward of a video of this size in a run of its own. The forward itself says what its blocks are."""
    run = run_of(PlanPolicy(plan(forward.family.name), 1.0, 0.0, "torch"))
    latent = torch.randn(1, 16, *size, generator=torch.Generator().manual_seed(2))

    def body(options: dict) -> Tensor:
        run.forget_blocks()
        compile_op.forget_forward()
        options.pop("patches_replace", None)
        return function(model, latent, options)

    return run_forward(run, 0.5, body, GRIDS[size]), run


def ways(forward: Forward, model: nn.Module) -> dict[str, tuple[Callable, nn.Module]]:
    """The compiled forward in each way that ComfyUI's nodes compile."""
    alone = forward.model(model.blocks[0].breaks)
    alone.blocks = nn.ModuleList([compiled(block) for block in alone.blocks])
    return {"whole": (compiled(forward.run), model), "blocks": (forward.run, alone)}


@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("way", ["whole", "blocks"])
@pytest.mark.parametrize("forward", [Forward(), CountedForward()], ids=["replaced", "counted"])
def test_compiled_code_is_of_its_block_and_its_video(forward: Forward, way: str, breaks: bool) -> None:
    model = forward.model(breaks)
    function, own = ways(forward, model)[way]
    for size in (LANDSCAPE, PORTRAIT, LANDSCAPE, PORTRAIT):
        expected, _ = sample(forward, forward.run, model, size)
        got, run = sample(forward, function, own, size)
        assert sparse_calls(run) == BLOCKS, line(run)
        assert set(dense_calls(run)) <= {fallback.CROSS_ATTENTION}
        assert [grid.shape for grid in run.stats.total().grids] == [GRIDS[size]]
        assert relative_l2(got, expected) <= SAMPLED


def test_orientations_and_layers_differ_enough_to_notice() -> None:
    forward = Forward()
    model = forward.model(False)
    first, _ = sample(forward, forward.run, model, LANDSCAPE)
    model.blocks = model.blocks[::-1]
    second, _ = sample(forward, forward.run, model, LANDSCAPE)
    assert relative_l2(second, first) > 100 * SAMPLED


def test_blocks_share_their_compiled_code() -> None:
    forward = Forward()
    counter = torch._dynamo.testing.CompileCounter()
    model = forward.model(False)
    model.blocks = nn.ModuleList(
        [torch.compile(block, backend=counter, options={"guard_filter_fn": keep}) for block in model.blocks]
    )
    sample(forward, forward.run, model, LANDSCAPE)
    assert counter.frame_count < BLOCKS / 2


def test_calls_outside_of_blocks_are_counted_each_time_shared_code_runs() -> None:
    """VACE's own blocks are such: their code was once written for the first of them and counted one for all."""
    forward = Forward()
    _, alone = ways(forward, forward.model(False))["blocks"]
    run = run_of(PlanPolicy(plan("wan"), 1.0, 0.0, "torch"))

    def body(options: dict) -> Tensor:
        latent = torch.zeros(1, 16, *LANDSCAPE)
        describe_forward(options, WAN, alone, {"x": latent, "context": torch.zeros(1, 0, 8)})
        x = torch.ones(1, 5 * 8 * 11, DIM)
        for block in alone.blocks:
            x = block(x, options)
        return x

    for number in (1, 2):
        run_forward(run, 0.5, body, GRIDS[LANDSCAPE])
        assert dense_calls(run) == {fallback.NO_LAYER: number * BLOCKS}
