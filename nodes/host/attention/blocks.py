"""Which block of the model is at work when attention is called.

ComfyUI's models let nodes replace their blocks; the pack puts itself around each block there and says its number, so
that neither order nor names that only some models write decide, and calls outside of the blocks cannot be mistaken for
theirs. Where blocks cannot be replaced, calls are counted.

Numbers are kept in three places: in transformer_options for code that runs as it is written, in `guarded.py` for code
that a compiler makes, and with the run, which plain Python between the blocks tells of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ..families import COUNTED, Family
from ..runs.current import current_run
from . import guarded

LAYER = "sparse_vdit_layer"
"""Key in transformer_options: number of the block at work, absent outside of blocks."""

COUNT = "sparse_vdit_count"
"""Key in transformer_options: list of one number, the calls so far, where blocks are counted."""

SEEN = "sparse_vdit_seen"
"""Key in transformer_options: whether the block at work has made its self-attention call. Tells apart cross-attention
to a text that happens to be as long as the video."""

Patch = Callable[[dict, dict], dict]


def number_blocks(options: dict, family: Family, model: nn.Module) -> bool:
    """Prepare the transformer_options of one forward, a dict of its own, so that `take_layer` knows the block. Returns
    whether blocks are counted."""
    options[SEEN] = False
    sections = family.blocks(model)
    counted = sections[0][0] == COUNTED
    run = None if torch.compiler.is_compiling() else current_run()
    if run is not None:
        run.at_work.begin_blocks(counted, options)
    if counted:
        options[COUNT] = [0]
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
    options = args["transformer_options"]
    begin_block(layer, options)
    try:
        return extra["original_block"](args) if patch is None else patch(args, extra)
    finally:
        end_block(options)


def begin_block(layer: int, options: dict) -> None:
    """A block begins."""
    options[LAYER], options[SEEN] = layer, False
    guarded.begin_block(layer)
    run = None if torch.compiler.is_compiling() else current_run()
    if run is not None:
        run.at_work.begin_block(layer, options)


def end_block(options: dict) -> None:
    """A block has ended."""
    options.pop(LAYER, None)
    guarded.end_block()
    run = None if torch.compiler.is_compiling() else current_run()
    if run is not None:
        run.at_work.layer = None


def take_layer(options: dict) -> int | None:
    """Number of the block whose attention is called by plain code, None outside of blocks; counts the call where that
    is how."""
    count = options.get(COUNT)
    if count is None:
        return options.get(LAYER)
    count[0] += 1
    return count[0] - 1
