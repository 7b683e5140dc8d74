"""Looks whether sparse outputs are finite, without waiting for the device: one flag per head, read once per forward."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteCheck:
    """The sparse outputs of one forward.

    Attributes:
        flags: bool (layers, heads + 1) on the device, True where an output was not finite; in the last column where q,
            k or v were not. None while nothing is looked at.
    """

    def __init__(self) -> None:
        self.flags: Tensor | None = None
        self._suspect: int | None = None

    def begin_forward(self, layers: int, heads: int, device: torch.device) -> None:
        """Make the flags of the forward that begins, outside of it."""
        self.flags = torch.zeros(layers, heads + 1, dtype=torch.bool, device=device)
        self._suspect = None

    def look_at(self, layer: int, out: Tensor, heads: tuple[int, ...] | None = None) -> None:
        """Flag the heads of a sparse output (B, S, H, D) that is not finite; their numbers where it lacks some."""
        if self.flags is not None:
            # a sum keeps every infinity and NaN, and makes no mask as large as the output. The softmax normaliser,
            # which kernels have anyway, would not show what is not finite in v.
            bad = ~torch.isfinite(out.sum((0, 1, 3), dtype=torch.float32))
            columns = slice(-1) if heads is None else list(heads)
            self.flags[layer, columns] |= bad.to(self.flags.device)  # in place: it was made before the forward

    def look_at_inputs(self, layer: int, inputs: tuple[Tensor, ...]) -> None:
        """In the repeated forward, flag where q, k or v of the first layer with such an output are not finite."""
        if layer == self._suspect:
            for x in inputs:
                self.flags[layer, -1] |= ~torch.isfinite(x.sum(dtype=torch.float32)).to(self.flags.device)

    def locate(self) -> list[str]:
        """Layers and heads with an output that was not finite, in words: `layer 2, head 1, 5`. Waits for the device."""
        if self.flags is None:
            return []
        flags = self.flags[:, :-1].cpu()
        layers = flags.any(1).nonzero().flatten().tolist()
        self._suspect = layers[0] if layers else None
        return [f"layer {layer}, head {', '.join(map(str, flags[layer].nonzero().flatten().tolist()))}"
                for layer in layers]  # fmt: skip

    def inputs_were_bad(self) -> bool:
        """After the repeated forward: whether the model's own numbers were not finite. Waits for the device."""
        return self._suspect is not None and bool(self.flags[self._suspect, -1])

    def free(self) -> None:
        """Drop the flags, and look at nothing more."""
        self.flags = self._suspect = None
