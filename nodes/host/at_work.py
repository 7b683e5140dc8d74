"""Which block of the model is at work, as plain Python between the blocks says it (`blocks.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from . import reasons


@dataclass
class AtWork:
    """The block at work in the forward now running.

    Attributes:
        numbered: whether plain Python says which block is at work; not where the model is compiled whole.
        layer: number of the block at work, None outside of blocks.
        count: attention calls of this forward where blocks are counted, else None.
        last: the block that attended last in this forward, -1 before the first, None where no forward was begun.
    """

    numbered: bool = False
    layer: int | None = None
    count: int | None = None
    last: int | None = None

    def begin_forward(self) -> None:
        """Nothing is known of the forward that begins, or begins again."""
        self.numbered, self.layer, self.count, self.last = False, None, None, -1

    def begin_blocks(self, counted: bool) -> None:
        """The model's forward begins, and plain Python will say which block is at work."""
        self.numbered, self.layer, self.count, self.last = True, None, 0 if counted else None, -1

    def take_layer(self) -> int | None:
        """Number of the block whose attention is called, None outside of blocks; counts the call where that is how."""
        if self.count is None:
            return self.layer
        self.count += 1
        return self.count - 1

    def refusal(self, layer: int | None) -> str | None:
        """Each block attends once and in order; anything else means that the number is not to be trusted."""
        if layer is None:
            return reasons.NO_LAYER
        if self.last is not None:
            if layer <= self.last:
                return reasons.BLOCK_ORDER
            self.last = layer
        return None
