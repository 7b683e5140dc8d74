"""Which block is at work: numbers through all sections, counted calls, and numbers that are not to be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from model_stand_ins import CogVideoXTransformer3DModel, HunyuanVideo, WanModel
from runs import CPU, GRID, HEADS, TOKENS, forward_by_operator, in_blocks, policy, qkv, run_of
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.hooks import compile_op
from sparse_vdit.nodes.host.hooks.blocks import describe_forward
from sparse_vdit.nodes.host.models import COGVIDEOX, HUNYUAN_VIDEO, WAN
from sparse_vdit.nodes.host.session.call import Call
from sparse_vdit.nodes.host.session.run import Run, as_current

INPUTS = {
    "x": torch.zeros(1, 16, GRID[0], 2 * GRID[1], 2 * GRID[2], device="meta"),
    "context": torch.zeros(1, 11, 8, device="meta"),
}


@pytest.fixture
def run() -> Iterator[Run]:
    """A current run."""
    made = run_of(policy(Diagonal(0)))
    with as_current(made):
        yield made
    compile_op.forget_forward()


def said(run: Run | None) -> Callable[[], int | None]:
    """What is said of the running block: to the run, or to compiled code where there is none."""

    def to_compiled_code() -> int | None:
        number = compile_op.state()[2]
        return None if number is None else int(number)

    return to_compiled_code if run is None else lambda: run.tracker.take_layer(None)


@pytest.mark.parametrize("with_run", [True, False])
def test_blocks_are_numbered_through_their_sections(run: Run, with_run: bool) -> None:
    model, options = HunyuanVideo(), {}
    layer = said(run if with_run else None)
    for _ in range(2):  # a second time, as by a node that repeats the forward: ours lies around it once
        describe_forward(options, HUNYUAN_VIDEO, model, INPUTS)
        assert in_blocks(model, options, lambda number, _: (number, layer())) == [(n, n) for n in range(5)]
        assert layer() is None
        assert all(patch.args[1] is None for patch in options["patches_replace"]["dit"].values())
    grid, outside, _, _ = compile_op.state()
    assert grid == run.tracker.grid == TokenGrid(*GRID, 11, 0)
    assert outside == run.tracker.outside.reason == fallback.REFINER.reason


def test_another_nodes_block_patch_is_still_called_and_its_dict_left_alone(run: Run) -> None:
    called = []

    def patch(args: dict, extra: dict) -> dict:
        called.append(run.tracker.layer)
        return extra["original_block"](args)

    theirs, model = {"dit": {("double_block", 1): patch}, "other": 1}, WanModel()
    options = {"patches_replace": theirs}
    describe_forward(options, WAN, model, INPUTS)
    assert in_blocks(model, options, lambda number, _: number) == [0, 1, 2, 3]
    assert called == [1]
    assert theirs == {"dit": {("double_block", 1): patch}, "other": 1}
    assert options["patches_replace"]["other"] == 1


def test_a_block_that_fails_leaves_no_number(run: Run) -> None:
    options, model = {}, WanModel()
    describe_forward(options, WAN, model, INPUTS)
    with pytest.raises(ZeroDivisionError):
        in_blocks(model, options, lambda number, _: 1 // (number - 2))
    assert run.tracker.layer is None and not run.tracker.in_block
    assert compile_op.state()[2] is None


def test_a_block_has_attended_until_the_next_one_begins(run: Run) -> None:
    options, model, found = {}, WanModel(), []
    describe_forward(options, WAN, model, INPUTS)

    def block(number: int, _: dict) -> None:
        found.append((run.tracker.attended, compile_op.state()[3]))
        run.tracker.attended = True
        compile_op.set_attended()
        found.append((run.tracker.attended, compile_op.state()[3]))

    in_blocks(model, options, block)
    assert found == [(False, False), (True, True)] * 4


def test_counted_blocks_begin_anew_with_each_forward(run: Run) -> None:
    for _ in range(2):
        describe_forward({}, COGVIDEOX, CogVideoXTransformer3DModel(), INPUTS)
        assert [run.tracker.take_layer(7) for _ in range(3)] == [0, 1, 2]
        compile_op.set_attended()
        _, _, number, attended = compile_op.state()
        assert int(number) < 0 and not attended  # nothing says where a block begins, so none has attended


def test_what_nodes_write_between_blocks_reaches_compiled_code(run: Run) -> None:
    """Plain Python's dict counts, not what shared code says of the block that it was made of."""
    options, model, seen = {"cond_or_uncond": [0]}, WanModel(), []
    run.options = options
    assert run.call_options({"block_index": 3}) == {"cond_or_uncond": [0], "block_index": 3}
    describe_forward(options, WAN, model, INPUTS)

    def block(number: int, given: dict) -> None:
        given["block_index"] = number
        seen.append(dict(run.call_options({"block_index": 3}))["block_index"])

    in_blocks(model, options, block)
    assert seen == [0, 1, 2, 3]


def test_a_block_number_that_does_not_rise_is_not_trusted() -> None:
    run, x = run_of(policy(Diagonal(0))), qkv()
    forward_by_operator(run, 0.5, x, numbers=[1, 1, 0, 3])
    assert run.stats.forward.layers[1] == {"sparse": 1, fallback.BLOCK_ORDER: 1}
    assert run.stats.forward.layers[0] == {fallback.BLOCK_ORDER: 1}
    assert run.stats.forward.layers[3] == {"sparse": 1}
    forward_by_operator(run, 0.5, x, numbers=[0])
    assert run.stats.forward.layers[0] == {"sparse": 1}


@pytest.mark.parametrize("layer", [None, 4])
def test_a_block_that_is_none_of_the_plans_stays_dense(layer: int | None) -> None:
    run = run_of(policy(Diagonal(0)))
    run.begin_step(0.5)
    run.begin_forward(CPU, 0.5)
    heads = (x.unflatten(-1, (HEADS, 128)) for x in qkv(tokens=TOKENS))
    assert run.attend(Call(layer, TokenGrid(*GRID), *heads)) is None
    assert run.stats.total().dense == {fallback.NO_LAYER: 1}
