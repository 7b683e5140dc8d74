"""Which block of the model is running, as plain Python between the blocks says it (`hooks/blocks.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from ....kernels.grid import TokenGrid
from ..core import fallback
from ..core.fallback import Dense

COUNTED = -1
"""Said in the place of a layer where calls are counted when they run."""


@dataclass
class BlockTracker:
    """The forward now running, and the block in it.

    Attributes:
        grid: how its tokens lie, or why that is unknown.
        outside: why calls outside of blocks stay dense.
        numbered: whether plain Python says which block is running; not where the model is compiled whole.
        options: transformer_options of the blocks where it does, else None.
        layer: number of the running block, None outside of blocks.
        attended: whether that block has made its self-attention call. Tells apart cross-attention to a text that
            happens to be as long as the video.
        count: attention calls of this forward where blocks are counted, else None.
        compiled_count: the same where compiled code makes them and leaves the counting to the run.
        last: the block that attended last in this forward, -1 before the first, None where no forward was begun.
    """

    grid: TokenGrid | Dense = fallback.UNSEEN_FORWARD
    outside: Dense = fallback.NO_LAYER
    numbered: bool = False
    options: dict | None = None
    layer: int | None = None
    attended: bool = False
    count: int | None = None
    compiled_count: int = 0
    last: int | None = None

    def begin_blocks(self, grid: TokenGrid | Dense, outside: Dense, counted: bool, options: dict) -> None:
        """The model's forward begins, and plain Python will say which block is running."""
        self.grid, self.outside = grid, outside
        self.numbered, self.options, self.count = True, options, 0 if counted else None
        self.layer, self.attended, self.compiled_count, self.last = None, False, 0, -1

    def begin_block(self, layer: int, options: dict | None) -> None:
        """A block begins."""
        self.layer, self.attended = layer, False
        self.options = self.options if options is None else options

    def end_block(self) -> None:
        """The block has ended."""
        self.layer = None

    @property
    def in_block(self) -> bool:
        """Whether a call that comes now is of a block."""
        return self.layer is not None or self.count is not None

    def take_layer(self, said: int | None) -> int | None:
        """Number of the block whose attention is called, None outside of blocks; counts the call where that is how.

        Args:
            said: what compiled code says of itself, COUNTED where it leaves that to the run; it counts where plain
                Python does not say it.
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

    def enter(self, layer: int | None) -> Dense | None:
        """A block attends. Each does so once and in order; returns why its call is dense where the number cannot be
        trusted."""
        if layer is None:
            return fallback.NO_LAYER
        if self.last is not None:
            if layer <= self.last:
                return fallback.BLOCK_ORDER
            self.last = layer
        return None
