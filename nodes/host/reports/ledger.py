"""What ran in a run, and in which words it is told: one line, and all details as JSON."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from ..families import Layout
from . import reasons

LAYOUTS_SHOWN = 2
MUCH = 0.25  # of the calls; what keeps more of them dense is worth a word
UNKNOWN = "unknown"  # in JSON, a layer without a number
REPEATED = ("sparse", "dense", "density_sum", "reached", "layers", "layouts", "devices", "backends")
"""What is counted again when a forward is repeated."""


@dataclass
class Ledger:
    """Counts of a run.

    Attributes:
        sparse: sparse calls.
        dense: dense calls by reason.
        density_sum: of the sparse calls.
        backend: of the last sparse call.
        seconds: in sparse attention.
        notes: what else the report must say.
        reached: calls of `Run.attend` by layer, None where it is unknown.
        layers: by layer, None where it is unknown: sparse calls, and dense calls by reason.
        forwards: by forward: noise level, sparse calls and dense calls by reason.
        layouts: token layouts met, by self-attention calls.
        milliseconds: of timed calls, by what they were.
        devices, backends: that ran sparse calls, by calls.
        failures: what went wrong, in words, in the order of time; of errors also the layer, None where it is unknown.
    """

    sparse: int = 0
    dense: Counter = field(default_factory=Counter)
    density_sum: float = 0.0
    backend: str | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    reached: Counter = field(default_factory=Counter)
    layers: dict[int, Counter] = field(default_factory=lambda: defaultdict(Counter))
    forwards: list[dict] = field(default_factory=list)
    layouts: Counter = field(default_factory=Counter)
    milliseconds: Counter = field(default_factory=Counter)
    devices: Counter = field(default_factory=Counter)
    backends: Counter = field(default_factory=Counter)
    failures: list[dict] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Remember something that the report must say, once."""
        if text not in self.notes:
            self.notes.append(text)

    def begin_forward(self, sigma: float | None) -> None:
        """The calls that follow are of a forward at this noise level."""
        self.forwards.append({"sigma": sigma, "sparse": 0, "dense": Counter()})

    def count_sparse(self, layer: int, density: float, backend: str, device: torch.device) -> None:
        """Count a sparse call."""
        self.sparse += 1
        self.density_sum += density
        self.backend = backend
        self.backends[backend] += 1
        self.devices[str(device)] += 1
        self.layers[layer]["sparse"] += 1
        if self.forwards:
            self.forwards[-1]["sparse"] += 1

    def count_dense(self, reason: str, layer: int | None = None) -> None:
        """Count a call that is dense, of a layer that may be unknown."""
        self.dense[reason] += 1
        self.layers[layer][reason] += 1
        if self.forwards:
            self.forwards[-1]["dense"][reason] += 1

    def mark(self) -> dict:
        """What `back_to` goes back to."""
        return {name: copy.deepcopy(getattr(self, name)) for name in REPEATED}

    def back_to(self, mark: dict) -> None:
        """Forget the forward that began at a mark: it is repeated."""
        for name, value in mark.items():
            setattr(self, name, value)
        self.forwards.pop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around forwards that are none of the video's: what they count is forgotten."""
        mark, forwards = self.mark(), len(self.forwards)
        try:
            yield
        finally:
            for name, value in mark.items():
                setattr(self, name, value)
            del self.forwards[forwards:]

    def dense_reasons(self) -> Counter:
        """Reasons of the dense self-attention calls."""
        return Counter({name: n for name, n in self.dense.items() if name not in reasons.NOT_SELF_ATTENTION})

    def calls(self) -> int:
        """Self-attention calls that reached the pack so far."""
        return self.sparse + self.dense_reasons().total()

    def line(self, title: str, told: str = "") -> str:
        """The line that says what ran; `title` and what else is `told` are the engine's."""
        dense = self.dense_reasons()
        why = ", ".join(f"{name} {count}" for name, count in dense.most_common())
        what = ", ".join(filter(None, (title, self.grids())))
        text = "Sparse-vDiT: " + (f"{what}: " if what else "")
        text += f"{self.sparse} sparse / {dense.total()} dense calls" + (f" ({why})" if why else "")
        if self.sparse:
            text += f", mean density {self.density_sum / self.sparse:.2f}, backend {self.backend}"
            text += f", {1000 * self.seconds:.0f} ms in sparse attention"
            much = mend_of_much(dense, self.calls())
            text += f"; much ran dense: {much}" if much else ""
        else:
            text += f"; nothing ran sparse: {mend(dense)}"
        return "; ".join(filter(None, [text, told, *self.notes]))

    def grids(self) -> str:
        """The token grids met, in words; empty when none was."""
        names = [grid_name(layout) for layout, _ in self.layouts.most_common()]
        more = f" and {len(names) - LAYOUTS_SHOWN} others" if len(names) > LAYOUTS_SHOWN else ""
        return " and ".join(names[:LAYOUTS_SHOWN]) + more + (" tokens" if names else "")

    def detail(self) -> dict:
        """All of it, for JSON."""
        return {
            "sparse": self.sparse,
            "dense": dict(self.dense),
            "mean_density": self.density_sum / self.sparse if self.sparse else None,
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
    for last in (reasons.VACE_BLOCK, reasons.WARM_UP, reasons.MEASURED):
        dense = Counter({reason: calls for reason, calls in dense.items() if reason != last}) or Counter({last: 1})
    likely = max(dense, key=dense.get)
    return reasons.MENDS.get(likely, likely)


def mend_of_much(dense: Counter, calls: int) -> str | None:
    """What helps against the commonest reason that nobody intended, where it keeps much of so many calls dense."""
    unintended = {reason: count for reason, count in dense.items() if reason not in reasons.INTENDED}
    likely = max(unintended, key=unintended.get, default=None)
    return reasons.MENDS.get(likely) if unintended.get(likely, 0) > MUCH * calls else None
