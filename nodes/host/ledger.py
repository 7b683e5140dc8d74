"""What ran in a run, and in which words it is told: one line, and all details as JSON."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from . import reasons
from .families import Layout

LAYOUTS_SHOWN = 2
UNKNOWN = "unknown"  # in JSON, a layer without a number


@dataclass
class Ledger:
    """Counts of a run.

    Attributes:
        layers: by layer, None where it is unknown: sparse calls, and dense calls by reason.
        forwards: by forward: noise level, sparse calls and dense calls by reason.
        layouts: token layouts met, by self-attention calls.
        milliseconds: of timed calls, by what they were.
        devices, backends: that ran sparse calls, by calls.
        failures: what went wrong, in words, in the order of time; of errors also the layer, None where it is unknown.
    """

    layers: dict[int, Counter] = field(default_factory=lambda: defaultdict(Counter))
    forwards: list[dict] = field(default_factory=list)
    layouts: Counter = field(default_factory=Counter)
    milliseconds: Counter = field(default_factory=Counter)
    devices: Counter = field(default_factory=Counter)
    backends: Counter = field(default_factory=Counter)
    failures: list[dict] = field(default_factory=list)

    def begin_forward(self, sigma: float | None) -> None:
        """The calls that follow are of a forward at this noise level."""
        self.forwards.append({"sigma": sigma, "sparse": 0, "dense": Counter()})

    def count(self, layer: int | None, reason: str | None) -> None:
        """Count a call of a layer that may be unknown, sparse where there is no reason."""
        self.layers[layer]["sparse" if reason is None else reason] += 1
        if not self.forwards:
            return
        if reason is None:
            self.forwards[-1]["sparse"] += 1
        else:
            self.forwards[-1]["dense"][reason] += 1

    def mark(self) -> tuple:
        """What `back_to` goes back to."""
        return copy.deepcopy((self.layers, self.layouts, self.devices, self.backends))

    def back_to(self, mark: tuple) -> None:
        """Forget the forward that began at a mark: it is repeated."""
        self.layers, self.layouts, self.devices, self.backends = mark
        self.forwards.pop()

    def grids(self) -> str:
        """The token grids met, in words; empty when none was."""
        names = [grid_name(layout) for layout, _ in self.layouts.most_common()]
        more = f" and {len(names) - LAYOUTS_SHOWN} others" if len(names) > LAYOUTS_SHOWN else ""
        return " and ".join(names[:LAYOUTS_SHOWN]) + more + (" tokens" if names else "")

    def detail(self) -> dict:
        """All of it, for JSON."""
        return {
            "grids": {grid_name(layout): calls for layout, calls in self.layouts.items()},
            "devices": dict(self.devices),
            "backends": dict(self.backends),
            "milliseconds": {name: round(ms, 3) for name, ms in self.milliseconds.items()},
            "failures": self.failures,
            "forwards": [{**forward, "dense": dict(forward["dense"])} for forward in self.forwards],
            "layers": {
                UNKNOWN if layer is None else str(layer): dict(calls)
                for layer, calls in sorted(self.layers.items(), key=lambda x: (x[0] is None, x[0]))
            },
        }


def grid_name(layout: Layout) -> str:
    """`21x45x80`, with text tokens before or after it: `256+21x45x80`."""
    frames, height, width, prefix, suffix = layout
    return (f"{prefix}+" if prefix else "") + f"{frames}x{height}x{width}" + (f"+{suffix}" if suffix else "")


def mend(dense: Counter) -> str:
    """Why most likely nothing ran sparse, in words a user understands: the commonest reason, but the warm-up and blocks
    that no plan is about only where there is no other."""
    if not dense:
        return reasons.UNREACHED
    for last in (reasons.VACE_BLOCK, reasons.WARM_UP):
        dense = Counter({reason: calls for reason, calls in dense.items() if reason != last}) or Counter({last: 1})
    likely = max(dense, key=dense.get)
    return reasons.MENDS.get(likely, likely)
