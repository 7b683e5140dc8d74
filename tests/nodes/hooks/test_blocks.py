"""Which block is at work: numbers through all sections, counted calls, and numbers that are not to be trusted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from model_stand_ins import GRID, CogVideoXTransformer3DModel, HunyuanVideo, WanModel, hunyuan_run, qkv
from sparse_vdit.nodes.host.attention.blocks import COUNT, LAYER, SEEN, number_blocks, take_layer
from sparse_vdit.nodes.host.families import COGVIDEOX, HUNYUAN_VIDEO, WAN
from sparse_vdit.nodes.host.reports import reasons
from sparse_vdit.nodes.host.runs.current import pop_run
from sparse_vdit.nodes.host.runs.engine import Call
from sparse_vdit.nodes.host.runs.run import Run


@pytest.fixture
def run() -> Iterator[Run]:
    with hunyuan_run() as made:
        yield made


def walk(options: dict, names: list[tuple[str, int]], call: object) -> None:
    """Run blocks as ComfyUI's models do: through what has replaced them."""
    for name in names:
        options["patches_replace"]["dit"][name](
            {"transformer_options": options, "img": None}, {"original_block": lambda args: call(args)}
        )


@pytest.mark.parametrize("with_run", [True, False])
def test_blocks_are_numbered_through_their_sections(run: Run, with_run: bool) -> None:
    if not with_run:
        pop_run(run)
    options = {}
    for _ in range(2):  # a second time, as by a node that repeats the forward: ours lies around it once
        number_blocks(options, HUNYUAN_VIDEO, HunyuanVideo())
        found = []
        names = [*(("double_block", n) for n in range(2)), *(("single_block", n) for n in range(3))]
        walk(options, names, lambda args, found=found: found.append(take_layer(args["transformer_options"])))
        assert found == [0, 1, 2, 3, 4]
        assert take_layer(options) is None and LAYER not in options
        assert all(patch.args[1] is None for patch in options["patches_replace"]["dit"].values())


def test_another_nodes_block_patch_is_still_called_and_its_dict_left_alone() -> None:
    called = []

    def patch(args: dict, extra: dict) -> dict:
        called.append(args["transformer_options"][LAYER])
        return extra["original_block"](args)

    theirs = {"dit": {("double_block", 1): patch}, "other": 1}
    options = {"patches_replace": theirs}
    number_blocks(options, WAN, WanModel())
    walk(options, [("double_block", n) for n in range(4)], lambda args: {})
    assert called == [1]
    assert theirs == {"dit": {("double_block", 1): patch}, "other": 1}
    assert options["patches_replace"]["other"] == 1


def test_a_block_that_fails_leaves_no_number(run: Run) -> None:
    options = {}
    number_blocks(options, WAN, WanModel())
    with pytest.raises(ZeroDivisionError):
        walk(options, [("double_block", 2)], lambda args: 1 // 0)
    assert LAYER not in options and run.at_work.layer is None


@pytest.mark.parametrize("with_run", [True, False])
def test_counted_blocks_begin_anew_with_each_forward(run: Run, with_run: bool) -> None:
    if not with_run:
        pop_run(run)
    options = {}
    for _ in range(2):
        number_blocks(options, COGVIDEOX, CogVideoXTransformer3DModel())
        copy = dict(options)
        assert [take_layer(copy if n else options) for n in range(3)] == [0, 1, 2]  # a shallow copy counts along
        if with_run:
            assert [run.at_work.take_layer(7) for _ in range(3)] == [0, 1, 2]
    assert options[COUNT] == [3]
    assert not options[SEEN]


def test_a_block_number_that_does_not_rise_is_not_trusted(run: Run) -> None:
    layout = (*GRID, 11, 0)
    run.begin_forward(torch.device("cpu"))
    assert run.attend(Call(1, layout, *qkv())) is not None
    for layer, reason in ((1, reasons.BLOCK_ORDER), (0, reasons.BLOCK_ORDER), (None, reasons.NO_LAYER)):
        assert run.attend(Call(layer, layout, *qkv())) is None
        assert run.ledger.dense.pop(reason) == 1
    assert run.attend(Call(7, layout, *qkv())) is None
    assert run.ledger.dense == {reasons.NO_LAYER: 1}
    run.begin_forward(torch.device("cpu"))
    assert run.attend(Call(0, layout, *qkv())) is not None
