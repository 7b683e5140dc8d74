"""Finds out who took attention away from the pack, so that a report can name it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ..core.fallback import BLOCKS_UNKNOWN
from ..core.stats import RunStats
from .own_attention import COMFYUI_ATTENTION, model_attention

OVERRIDE = "optimized_attention_override"
SOMEBODY = "something the pack cannot see"


def named(thing: object) -> str:
    """A function or module in words that lead to its pack: `attention_sage of ComfyUI-KJNodes`."""
    thing = getattr(thing, "func", thing)  # of a partial
    thing = getattr(thing, "__func__", thing)
    if not hasattr(thing, "__qualname__"):
        thing = type(thing)
    pack = re.search(r"custom_nodes[/\\.]([^/\\.]+)", thing.__module__ or "")
    where = pack[1].replace("_x_", ".") if pack else thing.__module__  # ComfyUI's way to spell dots
    return f"{thing.__qualname__.replace('.<locals>', '')} of {where}"


def names(things: Iterable[object]) -> str | None:
    """All of them, each name once; None where there are none."""
    return ", ".join(sorted({named(thing) for thing in things})) or None


class Watch:
    """Looks at the forwards of a run for attention that other nodes put in the pack's place.

    Args:
        patcher: MODEL of the run.
        model: its diffusion model.
        layers: how many of its blocks have self-attention.
        compiled: whether the model is compiled.
    """

    def __init__(self, patcher: object, model: nn.Module, layers: int, compiled: bool = False):
        self.model, self.layers, self.compiled = model, layers, compiled
        self.on_top: str | None = None
        self.foreign: str | None = None
        self.forwards = 0
        self._shapes: set[tuple] = set()
        patches = getattr(patcher, "object_patches", {})
        self.patches = names(patch for key, patch in patches.items() if key.startswith("diffusion_model."))

    def note_shapes(self, inputs: Mapping) -> bool:
        """Remember the shapes of a compiled model's forward; returns whether this run has not met them yet."""
        if not self.compiled:
            return False
        shapes = tuple((name, *x.shape) for name, x in sorted(inputs.items()) if isinstance(x, Tensor))
        new = shapes not in self._shapes
        self._shapes.add(shapes)
        return new

    def forward(self, options: Mapping, ours: object, calls: int) -> None:
        """Look at a forward that is over, by its transformer_options and how many self-attention calls came to us."""
        self.forwards += 1
        if calls >= self.layers:
            return
        override = options.get(OVERRIDE)
        if override is not ours:
            self.on_top = SOMEBODY if override is None else named(override)
        function = model_attention(self.model)
        blocks = (options.get("patches_replace") or {}).get("dit") or {}  # a node may run whole blocks itself
        if function.__module__ != COMFYUI_ATTENTION:
            self.foreign = named(function)
        else:
            # a method of the model that another node has put in the place of its class's
            own = vars(self.model)
            methods = [own[name] for name in own if callable(getattr(type(self.model), name, None))]
            self.foreign = names([*blocks.values(), *methods]) or self.foreign

    def verdict(self, stats: RunStats) -> str | None:
        """Who took the attention of a run, in words. None when nobody did, or the pack itself refused calls for what
        they are: then no other node has to do with the missing layers."""
        total = stats.total()
        if total.calls() > total.reached.total() or not BLOCKS_UNKNOWN.isdisjoint(total.dense):
            return None
        missing = self.layers - len(total.reached.keys() - {None})
        if not self.forwards or not (missing or self.on_top):
            return None
        who = self.on_top or self.patches or self.foreign or SOMEBODY
        if not total.sparse:
            return f"attention was replaced by {who}, nothing ran sparse: leave out that node or Sparse-vDiT"
        if missing:
            return f"{who} replaced the attention of {missing} of {self.layers} blocks, which did not run sparse"
        return f"{who} came on top of the pack's attention, calls that it takes do not run sparse"
