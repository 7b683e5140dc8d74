"""Which block of the model is at work, as plain Python between the blocks says it (`blocks.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from ..reports import reasons
from .guarded import COUNTED


@dataclass
class AtWork:
    """The block at work in the forward now running.

    Attributes:
        numbered: whether plain Python says which block is at work; not where the model is compiled whole.
        options: transformer_options of the blocks where plain Python says which is at work, else None.
        layer: number of the block at work, None outside of blocks.
        count: attention calls of this forward where blocks are counted, else None.
        compiled_count: the same where compiled code makes them and leaves the counting to the run.
        last: the block that attended last in this forward, -1 before the first, None where no forward was begun.
    """

    numbered: bool = False
    options: dict | None = None
    layer: int | None = None
    count: int | None = None
    compiled_count: int = 0
    last: int | None = None

    def begin_forward(self) -> None:
        """Nothing is known of the forward that begins, or begins again."""
        self.numbered, self.options, self.layer, self.count, self.last = False, None, None, None, -1
        self.compiled_count = 0

    def begin_blocks(self, counted: bool, options: dict) -> None:
        """The model's forward begins, and plain Python will say which block is at work."""
        self.begin_forward()
        self.numbered, self.options, self.count = True, options, 0 if counted else None

    def begin_block(self, layer: int, options: dict) -> None:
        """A block begins."""
        self.layer, self.options = layer, options

    def take_layer(self, said: int | None) -> int | None:
        """Number of the block whose attention is called, None outside of blocks; counts the call where that is how.

        Args:
            said: what the code that calls says of itself, COUNTED where it leaves that to the run; it counts where
                plain Python does not say it.
        """
        if not self.numbered and said == COUNTED:
            self.compiled_count += 1
            return self.compiled_count - 1
        if not self.numbered:
            return said
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
