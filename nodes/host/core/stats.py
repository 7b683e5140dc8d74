"""What ran in a run: counts of calls, by forward and by layer."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import torch

from ....kernels.grid import TokenGrid
from .fallback import Dense

SPARSE = "sparse"
UNKNOWN = "unknown"  # in JSON, a layer without a number

Layers = defaultdict[int | None, Counter]


@dataclass
class CallCounts:
    """Calls of one forward, or of many.

    Attributes:
        sparse: sparse calls.
        dense: dense calls by reason.
        density_sum: of the sparse calls.
        layers: by layer, None where it is unknown: sparse calls, and dense calls by reason.
        reached: calls that the run was asked about, by layer.
        grids: token grids met, by self-attention calls.
        devices, backends: that ran sparse calls, by calls.
    """

    sparse: int = 0
    dense: Counter[Dense] = field(default_factory=Counter)
    density_sum: float = 0.0
    layers: Layers = field(default_factory=lambda: defaultdict(Counter))
    reached: Counter = field(default_factory=Counter)
    grids: Counter[TokenGrid] = field(default_factory=Counter)
    devices: Counter[torch.device] = field(default_factory=Counter)
    backends: Counter[str] = field(default_factory=Counter)

    def add(self, other: CallCounts) -> None:
        """Add the calls of another forward."""
        self.sparse += other.sparse
        self.density_sum += other.density_sum
        for name in ("dense", "reached", "grids", "devices", "backends"):
            getattr(self, name).update(getattr(other, name))
        for layer, calls in other.layers.items():
            self.layers[layer].update(calls)

    def calls(self) -> int:
        """Self-attention calls that reached the pack."""
        return self.sparse + sum(self.self_attention().values())

    def self_attention(self) -> Counter[Dense]:
        """Dense self-attention calls by reason."""
        return Counter({why: count for why, count in self.dense.items() if why.self_attention})


class RunStats:
    """Counts of a run. The forward now running is counted apart, so that it can be forgotten when it is repeated.

    Attributes:
        forward: counts of the forward now running.
        seconds: in sparse attention.
        notes: what else the report must say.
        milliseconds: of timed calls, by what they were.
        failures: what went wrong, in words, in the order of time; of errors also the layer, None where it is unknown.
        backend: of the last sparse call, None without any.
        split: sparse calls by GPU, where several computed at once.
    """

    def __init__(self) -> None:
        self.forward = CallCounts()
        self.seconds = 0.0
        self.notes: list[str] = []
        self.milliseconds: Counter[str] = Counter()
        self.failures: list[dict] = []
        self.backend: str | None = None
        self.split: dict[str, int] = {}
        self._ended: list[tuple[float | None, CallCounts]] = []
        self._sigma: float | None = None
        self._begun = False

    def begin_forward(self, sigma: float | None) -> None:
        """The calls that follow are of a forward at this noise level."""
        self._end_forward()
        self._sigma, self._begun = sigma, True

    def rollback(self) -> None:
        """Forget the calls of the forward now running: it is repeated."""
        self.forward = CallCounts()

    def _end_forward(self) -> None:
        if self._begun or self.forward.dense or self.forward.sparse:
            self._ended.append((self._sigma, self.forward))
        self.forward = CallCounts()

    def count_sparse(self, layer: int, density: float, backend: str, device: torch.device) -> None:
        """Count a sparse call."""
        counts = self.forward
        counts.sparse += 1
        counts.density_sum += density
        counts.backends[backend] += 1
        self.backend = backend
        counts.devices[device] += 1
        counts.layers[layer][SPARSE] += 1

    def count_dense(self, why: Dense, layer: int | None = None) -> None:
        """Count a call that is dense, of a layer that may be unknown."""
        self.forward.dense[why] += 1
        self.forward.layers[layer][why] += 1

    def recount(self, before: Dense, now: Dense) -> None:
        """Count dense calls of the forward now running by another reason."""
        for counts in (self.forward.dense, *self.forward.layers.values()):
            if before in counts:
                counts[now] += counts.pop(before)

    def note(self, text: str) -> None:
        """Remember something that the report must say, once."""
        if text not in self.notes:
            self.notes.append(text)

    def merge(self, other: RunStats) -> None:
        """Add what ran on another GPU at the same time."""
        for stats in (self, other):
            stats._end_forward()
            stats._begun = False
        self._ended += other._ended
        self._ended.sort(key=lambda ended: -(ended[0] or 0.0))
        self.seconds += other.seconds
        self.milliseconds.update(other.milliseconds)
        self.failures += other.failures
        self.backend = self.backend or other.backend
        for text in other.notes:
            self.note(text)

    def total(self) -> CallCounts:
        """All calls so far."""
        total = CallCounts()
        for _, counts in self._ended:
            total.add(counts)
        total.add(self.forward)
        return total

    def forwards(self) -> list[dict]:
        """By forward: noise level, sparse calls and dense calls by reason."""
        ended = [*self._ended, (self._sigma, self.forward)] if self._begun else self._ended
        return [
            {"sigma": sigma, SPARSE: counts.sparse, "dense": by_text(counts.dense)} for sigma, counts in ended
        ]

    def detail(self) -> dict:
        """All of it, for JSON."""
        total = self.total()
        return {
            SPARSE: total.sparse,
            "dense": by_text(total.dense),
            "mean_density": total.density_sum / total.sparse if total.sparse else None,
            "grids": {grid_name(grid): calls for grid, calls in total.grids.items()},
            "devices": {str(device): calls for device, calls in total.devices.items()},
            "backends": dict(total.backends),
            "milliseconds": {name: round(ms, 3) for name, ms in self.milliseconds.items()},
            "failures": self.failures,
            "forwards": self.forwards(),
            "layers": {
                UNKNOWN if layer is None else str(layer): by_text(total.layers[layer])
                for layer in sorted(total.layers, key=lambda layer: (layer is None, layer))
            },
        }


def by_text(calls: Counter) -> dict[str, int]:
    """Calls by reason in words, for JSON."""
    return {str(why): count for why, count in calls.items()}


def grid_name(grid: TokenGrid) -> str:
    """`21x45x80`, with text tokens before or after it: `256+21x45x80`."""
    frames, height, width, prefix, suffix = grid
    return (f"{prefix}+" if prefix else "") + f"{frames}x{height}x{width}" + (f"+{suffix}" if suffix else "")
