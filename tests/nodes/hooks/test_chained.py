"""A chained override is given exactly what the model's forward gave: by plain and compiled code, in timed calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from dense_attention import model_attention
from runs import dense_calls, run_forward, run_of, sparse_calls
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.hooks import compile_op
from sparse_vdit.nodes.host.hooks.blocks import begin_block
from sparse_vdit.nodes.host.hooks.compile_op import pack, unpack
from sparse_vdit.nodes.host.policies.kernel_tuner import KernelTuner, forget_times
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session.run import Run, as_current
from sparse_vdit.plans.plan.plan import uniform_plan
from told_clock import ToldClock

GRID, HEADS, DOUBLES, SINGLES = (3, 8, 11), 2, 2, 3
TOKENS = GRID[0] * GRID[1] * GRID[2]
KEPT = ("block_index", "block_type", "total_blocks", "img_slice", "grid_sizes", "cond_or_uncond")


class Container:
    """ComfyUI's container for q, k and v."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor

    def peek(self) -> torch.Tensor:
        return self.tensor

    def take(self) -> torch.Tensor:
        tensor, self.tensor = self.tensor, None
        return tensor


class Recorder:
    """A chained override that keeps what it is given."""

    def __init__(self):
        self.calls: list[tuple] = []

    def __call__(self, func: Callable, *args: object, **kwargs: object) -> torch.Tensor:
        options = kwargs.pop("transformer_options")
        self.calls.append((args[3:], kwargs, {name: options[name] for name in KEPT if name in options}))
        return func(*args, **kwargs)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict) -> torch.Tensor:
    """A block: attention as ComfyUI calls it."""
    ours = options["optimized_attention_override"]
    kwargs = {"transformer_options": options, "_inside_attn_wrapper": True}
    return ours(model_attention, q, k, v, HEADS, **kwargs)


def contained(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict) -> torch.Tensor:
    """The same with containers."""
    ours = options["optimized_attention_override"]
    kwargs = {"transformer_options": options, "_inside_attn_wrapper": True}
    return ours.container_function(Container(q), Container(k), Container(v), HEADS, **kwargs)


def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, transformer_options: dict, block: Callable = attend):
    """Two sections of blocks that each begin at 0, as HunyuanVideo's, on a dict of the forward's own."""
    options = transformer_options.copy()
    options["grid_sizes"] = torch.Size(GRID)
    out = q
    for section, (kind, count) in enumerate((("double", DOUBLES), ("single", SINGLES))):
        options["total_blocks"], options["block_type"] = count, kind
        if section:
            options["img_slice"] = [q.shape[1] - TOKENS, TOKENS]
        for index in range(count):
            options["block_index"] = index
            begin_block(section * DOUBLES + index, options)
            out = block(out, k, v, options)
    return out


def truth() -> list[dict]:
    """What the override is given where the pack is not there."""
    alone = Recorder()
    options = {"optimized_attention_override": alone, "cond_or_uncond": [0]}
    with as_current(Run(POLICY)):
        forward(*[torch.zeros(1, TOKENS, HEADS * 64)] * 3, options)
    compile_op.forget_forward()
    return alone.calls


POLICY = PlanPolicy(uniform_plan("hunyuan_video", DOUBLES + SINGLES, HEADS, 64, GRID, Diagonal(0)), 0.8, 0.0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run whose warm-up ends at sigma .8, with a chained recorder and a tuner."""
    forget_times()
    monkeypatch.setattr(compile_op._here.state, "sampling", True)
    torch._dynamo.reset()
    policy = PlanPolicy(POLICY.plan, 0.8, 0.0, "auto", KernelTuner())
    yield run_of(policy, ToldClock(dense=10.0, exact=1.0), Recorder())
    torch._dynamo.reset()
    forget_times()


def keep(guards: list) -> list[bool]:
    """ComfyUI's compiler drops the guards on transformer_options."""
    return ["options" not in guard.name for guard in guards]


def compiled(function: Callable) -> Callable:
    return torch.compile(function, backend="aot_eager", options={"guard_filter_fn": keep})


@torch.inference_mode()
def sample(run: Run, way: Callable, sigma: float, numbered: bool) -> list[tuple]:
    """One forward at a noise level, then what the chained override was given in it."""
    _, recorder = run.own
    before = len(recorder.calls)
    generator = torch.Generator().manual_seed(7)
    x = [torch.randn(1, TOKENS, HEADS * 64, generator=generator) for _ in range(3)]

    def body(options: dict) -> None:
        if not numbered:  # all of the model's code is compiled, so that the run is told nothing
            run.forget_blocks()
        way(*x, options)

    run_forward(run, sigma, body, GRID, options={"cond_or_uncond": [0]})
    return recorder.calls[before:]


def ways() -> dict[str, tuple[Callable, bool]]:
    """How a forward may run, and whether plain Python runs between its blocks."""
    block = compiled(attend)
    return {
        "plain": (forward, True),
        "containers": (lambda *args: forward(*args, block=contained), True),
        "compiled whole": (compiled(forward), False),
        "compiled by blocks": (lambda *args: forward(*args, block=block), True),
    }


@pytest.mark.parametrize("way", ways())
def test_dense_calls_are_given_what_the_forward_gave(run: Run, way: str) -> None:
    function, numbered = ways()[way]
    for _ in range(2):
        given = sample(run, function, 0.9, numbered)
        assert [options for _, _, options in given] == [options for _, _, options in truth()]
        assert all(type(options["grid_sizes"]) is torch.Size for _, _, options in given)
        assert all(args == (HEADS,) and kwargs["_inside_attn_wrapper"] for args, kwargs, _ in given)
    assert dense_calls(run) == {fallback.WARM_UP: 2 * (DOUBLES + SINGLES)}


@pytest.mark.parametrize("way", ways())
def test_so_are_calls_that_are_made_for_timing_alone(run: Run, way: str) -> None:
    function, numbered = ways()[way]
    given = sample(run, function, 0.5, numbered)
    assert sparse_calls(run) == DOUBLES + SINGLES
    assert len(given) == run.clock.timed.count("dense") > 0
    first = truth()[0]
    assert all(options == first[2] and args == first[0] for args, _, options in given)


def test_what_is_written_goes_through_texts_and_numbers_unchanged() -> None:
    for _, _, options in truth():
        del options["cond_or_uncond"]
        assert unpack(*pack({**options, "sigmas": torch.zeros(1)})) == options
    assert unpack(*pack({})) == {}
