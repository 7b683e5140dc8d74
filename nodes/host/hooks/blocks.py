"""Says which block of the model is running, to the run and to compiled code.

ComfyUI's models let nodes replace their blocks; the pack puts itself around each block there and says its number, so
that neither order nor names that only some models write decide, and calls outside of the blocks cannot be mistaken for
theirs. Where blocks cannot be replaced, calls are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ..core.fallback import Dense
from ..models import UNNAMED, Family, Inputs, token_grid
from ..session.run import current_run
from . import compile_op

Patch = Callable[[dict, dict], dict]


def describe_forward(options: dict, family: Family, model: nn.Module, inputs: Inputs) -> None:
    """The model's forward begins, with these inputs: say all that follows from them, and prepare the
    forward's transformer_options, which is a new dict."""
    grid, outside = token_grid(model, family, inputs), family.outside(model)
    counted = _number_blocks(options, family, model)
    run = None if torch.compiler.is_compiling() else current_run()
    if run is not None:
        run.tracker.begin_blocks(grid, outside, counted, options)
    compile_op.begin_forward(grid.reason if isinstance(grid, Dense) else grid, outside.reason, counted)


def _number_blocks(options: dict, family: Family, model: nn.Module) -> bool:
    """Put the pack around each block. Returns whether blocks are counted instead."""
    sections = family.blocks(model)
    if sections[0][0] == UNNAMED:
        return True
    replaced = options.get("patches_replace") or {}
    around = dict(replaced.get("dit") or {})
    layer = 0
    for name, count in sections:
        for number in range(count):
            around[name, number] = partial(_in_block, layer, _others(around.get((name, number))))
            layer += 1
    options["patches_replace"] = {**replaced, "dit": around}
    return False


def _others(patch: Patch | None) -> Patch | None:
    """The patch another node had put around a block; ours is taken off when a forward is prepared twice."""
    return patch.args[1] if isinstance(patch, partial) and patch.func is _in_block else patch


def _in_block(layer: int, patch: Patch | None, args: dict, extra: dict) -> dict:
    """Around one block: `patch` is another node's, `extra` holds the block itself."""
    begin_block(layer, args.get("transformer_options"))
    try:
        return extra["original_block"](args) if patch is None else patch(args, extra)
    finally:
        end_block()


def begin_block(layer: int, options: dict | None) -> None:
    """A block begins."""
    compile_op.begin_block(layer)
    run = None if torch.compiler.is_compiling() else current_run()
    if run is not None:
        run.tracker.begin_block(layer, options)


def end_block() -> None:
    """The block has ended."""
    compile_op.end_block()
    run = None if torch.compiler.is_compiling() else current_run()
    if run is not None:
        run.tracker.end_block()
