"""Looks whether sparse outputs are finite: at once on a CPU, elsewhere once per forward, which may then be repeated."""

from __future__ import annotations

import torch
from torch import Tensor

from .ledger import Ledger

MOST_FAILURES = 3  # outputs that were not finite, after which a run goes on dense
NOT_OURS = "q, k or v of the model were not finite before sparse attention, which then cannot be either"


class OutputCheck:
    """The outputs of one run.

    Attributes:
        flags: bool (layers, heads + 1) on the device, True where a sparse output of this forward was not finite, in
            the last column where q, k or v were not before; None where outputs are checked at once.
        dense_layers: layers that are dense in the forward now running, because it is repeated for them.
        failures: outputs that were not finite so far.
    """

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.flags: Tensor | None = None
        self.dense_layers: set[int] = set()
        self.failures = 0

    def begin_forward(self) -> None:
        """Nothing is known of the forward that begins."""
        self.flags = None
        self.dense_layers.clear()

    def reserve(self, layers: int, heads: int, device: torch.device) -> None:
        """Make what outlives the forward that begins, outside of it."""
        if not checks_at_once(device):
            self.flags = torch.zeros(layers, heads + 1, dtype=torch.bool, device=device)

    def spoiled(self, layer: int, out: Tensor, inputs: tuple[Tensor, ...] = ()) -> bool:
        """Whether an output (B, S, H, D) is known not to be finite, which is then a failure of its layer and heads. On
        a GPU it is only flagged, and `first_spoiled` tells when the forward is over.

        Args:
            inputs: q, k and v; where they are not finite already, the output is none of the pack's doing, and dense
                attention would give no better one.
        """
        # a sum keeps every infinity and NaN, and makes no mask as large as the output. The softmax normaliser, which
        # kernels have anyway, would not show what is not finite in v.
        bad = ~torch.isfinite(out.sum((0, 1, 3), dtype=torch.float32))
        if self.flags is not None:
            self.flags[layer, :-1] |= bad.to(self.flags.device)  # in place: it was made before the forward
            for x in inputs:
                self.flags[layer, -1] |= not_finite(x).to(self.flags.device)
            return False
        if not checks_at_once(out.device) or not bool(bad.any()):
            return False
        if any(bool(not_finite(x)) for x in inputs):
            self.ledger.note(NOT_OURS)
            return False
        self.count(layer, bad)
        return True

    def first_spoiled(self) -> tuple[int, Tensor] | None:
        """First layer of the forward with an output that was not finite, and which of its heads, bool (heads,); None
        where there is none, or where its q, k or v were not finite before. Waits for the device once."""
        if self.flags is None:
            return None
        flags = self.flags.cpu()
        layers = flags[:, :-1].any(1).nonzero()
        if not len(layers):
            return None
        layer = int(layers[0])  # later layers may be bad because this one was
        if bool(flags[layer, -1]):
            self.ledger.note(NOT_OURS)
            return None
        return layer, flags[layer, :-1]

    def count(self, layer: int, bad: Tensor) -> None:
        """Count a failure of a layer's heads, bool (heads,)."""
        heads = ", ".join(str(head) for head in bad.nonzero().flatten().tolist())
        text = f"layer {layer}, head {heads}: sparse output was not finite and was computed again dense"
        self.failures += 1
        self.ledger.failures.append({"what": text})
        self.ledger.note(text)

    def too_often(self) -> bool:
        """Whether the rest of the run should be dense."""
        return self.failures >= MOST_FAILURES


def not_finite(x: Tensor) -> Tensor:
    """Whether there is a number in x that is not finite, as one bool on its device."""
    return ~torch.isfinite(x.sum(dtype=torch.float32))  # makes no mask as large as x


def checks_at_once(device: torch.device) -> bool:
    """Whether it costs nothing to look at a number on a device at once. Elsewhere that would hold up every layer: there
    flags are read once per forward, which is repeated if one is set."""
    return device.type == "cpu"
