"""Looks whether sparse outputs are finite: at once on a CPU, elsewhere once per forward, which may then be repeated.

Outputs alone are looked at in every call. Whether q, k and v were finite is of interest only where an output was not:
on a GPU the layer's call in the repeated forward, which is dense and has the same q, k and v, tells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..reports.ledger import Ledger

MOST_FAILURES = 3  # outputs that were not finite, after which a run goes on dense
NOT_OURS = "q, k or v of the model were not finite before sparse attention, which then cannot be either"


class OutputCheck:
    """The outputs of one run.

    Attributes:
        flags: bool (layers, heads + 1) on the device, True where a sparse output of this forward was not finite, in
            the last column where q, k or v of a repeated call are not; None where outputs are checked at once, or no
            longer.
        dense_layers: layers that are dense in the forward now running, because it is repeated for them.
        suspect: the last of them, and its heads with an output that was not finite, bool (heads,): a failure if its
            q, k and v are finite. None in a forward that is not repeated.
        failures: outputs that were not finite so far.
    """

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.flags: Tensor | None = None
        self.dense_layers: set[int] = set()
        self.suspect: tuple[int, Tensor] | None = None
        self.failures = 0
        self._is_ours = True

    def begin_forward(self) -> None:
        """Nothing is known of the forward that begins."""
        self.flags = self.suspect = None
        self.dense_layers = set()

    def reserve(self, layers: int, heads: int, device: torch.device) -> None:
        """Make what outlives the forward that begins, outside of it."""
        if self._is_ours and not checks_at_once(device):
            self.flags = torch.zeros(layers, heads + 1, dtype=torch.bool, device=device)

    def spoiled(self, layer: int, out: Tensor, inputs: tuple[Tensor, ...] = ()) -> bool:
        """Whether an output (B, S, H, D) is known not to be finite, which is then a failure of its layer and heads. On
        a GPU it is only flagged, and `first_spoiled` tells when the forward is over.

        Args:
            inputs: q, k and v; where they are not finite already, the output is none of the pack's doing, and dense
                attention would give no better one. On a GPU `look_at` is for them.
        """
        if self.flags is None and not checks_at_once(out.device):
            return False
        # a sum keeps every infinity and NaN, and makes no mask as large as the output. The softmax normaliser, which
        # kernels have anyway, would not show what is not finite in v.
        bad = ~torch.isfinite(out.sum((0, 1, 3), dtype=torch.float32))
        if self.flags is not None:
            self.flags[layer, :-1] |= bad.to(self.flags.device)  # in place: it was made before the forward
            return False
        if not bool(bad.any()):
            return False
        if any(bool(not_finite(x)) for x in inputs):
            self.ledger.note(NOT_OURS)
            return False
        self.count(layer, bad)
        return True

    def look_at(self, layer: int, inputs: tuple[Tensor, ...]) -> None:
        """Flag where q, k or v of the suspect's repeated call are not finite; of other layers nothing is asked."""
        if self.flags is not None and self.suspect is not None and self.suspect[0] == layer:
            for x in inputs:
                self.flags[layer, -1] |= not_finite(x).to(self.flags.device)

    def next_suspect(self) -> tuple[int, Tensor] | None:
        """What the forward that ended says of its suspect, which is counted if it is a failure, and the next one: the
        first layer with an output that was not finite. None where there is none, or where the model's own numbers were
        not finite; nothing is looked at from then on. Waits for the device once."""
        if self.flags is None:
            return None
        flags = self.flags.cpu()
        if self.suspect is not None:
            layer, bad = self.suspect
            if bool(flags[layer, -1]):
                self._is_ours = False
                self.ledger.note(NOT_OURS)
                return None
            self.count(layer, bad)
        layers = flags[:, :-1].any(1).nonzero()
        if not len(layers):
            return None
        layer = int(layers[0])  # later layers may be bad because this one was
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
