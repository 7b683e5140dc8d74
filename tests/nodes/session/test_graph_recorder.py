"""The stand-in for ComfyUI's memory compiler finds violations that are planted, and counts blocks that differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graph_recorder import GraphError, GraphRecorder
from torch import nn


def planted(kind: str) -> Callable[[GraphRecorder, nn.Module, list], torch.Tensor]:
    """A forward that breaks a rule, or keeps it."""

    def forward(recorder: GraphRecorder, module: nn.Module, kept: list) -> torch.Tensor:
        x = torch.ones(7, 5)
        if kind == "result":
            return x * 2
        if kind == "view of the input":
            kept.append(module.weight[:2])
        if kind == "kept tensor":
            kept.append(x + 1)
        if kind == "kept view":
            kept.append((x + 1)[2:])
        if kind == "kept numbers":
            kept.append(torch.tensor([1, 2, 3]))
        if kind == "attribute":
            module.note = 1
        if kind == "paused":
            with recorder.pause():
                kept.append(x + 1)
                module.note = 1
        if kind == "freed in the pause":
            other = x + 1
            with recorder.pause():
                del other
        if kind == "freed after the pause":
            with recorder.pause():
                other = x + 1
            del other
        if kind == "a pause in a pause":
            with recorder.pause():
                with recorder.pause():
                    pass
                kept.append(x + 1)
        return module(x)

    return forward


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("result", None), ("view of the input", None), ("paused", None), ("kept tensor", "aten.add.*outlives"),
        ("kept view", "aten.add.*outlives"), ("kept numbers", "lift_fresh.*outlives"), ("attribute", "Linear.note set"),
        ("freed in the pause", "aten.add.*freed in a pause"),
        ("freed after the pause", "aten.add.*allocated in a pause and freed while recording"),
        ("a pause in a pause", "aten.add.*outlives"),
    ],
)  # fmt: skip
@torch.inference_mode()
def test_the_stand_in_finds_planted_violations(kind: str, says: str | None) -> None:
    recorder, module, kept = GraphRecorder(), nn.Linear(5, 3), []

    def run() -> torch.Tensor:
        return recorder.record(lambda: planted(kind)(recorder, module, kept))

    if says is None:
        assert run().shape[0] == 7
    else:
        with pytest.raises(GraphError, match=says):
            run()
    module.after = 1  # nothing is watched any more


class Blocks(nn.Module):
    """Blocks that allocate so many numbers each, and change what they are given in place.

    Attributes:
        held: tensors from before the blocks, of which each block drops one.
    """

    def __init__(self, sizes: tuple[int, ...]):
        super().__init__()
        self.held: list[torch.Tensor] = []
        self.blocks = nn.ModuleList(nn.Module() for _ in sizes)
        for block, size in zip(self.blocks, sizes, strict=True):
            block.forward = lambda x, size=size: self.change(x, size)

    def change(self, x: torch.Tensor, size: int) -> None:
        del self.held[:1]
        x += torch.ones(size).sum()

    def forward(self, x: torch.Tensor, holds: bool = False) -> torch.Tensor:
        x = x.clone()
        if holds:
            self.held.append(x + 1)
        for block in self.blocks:
            block(x)
        return x


@pytest.mark.parametrize(("sizes", "different"), [((5, 5, 5), 1), ((5, 6, 5), 2)])
def test_the_stand_in_counts_blocks_that_differ(sizes: tuple[int, ...], different: int) -> None:
    recorder, model = GraphRecorder(), Blocks(sizes)
    for _ in range(2):
        recorder.record(lambda: model(torch.zeros(3)), model)
    assert recorder.most_sequences() == different


def test_the_stand_in_finds_what_a_block_frees_of_others() -> None:
    recorder, model = GraphRecorder(), Blocks((5, 5))
    with pytest.raises(GraphError, match=r"aten.add.*freed in a block that did not allocate it"):
        recorder.record(lambda: model(torch.zeros(3), holds=True), model)
