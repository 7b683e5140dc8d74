"""Named targets of a search, the same words on every node that has them."""

from __future__ import annotations

PRESETS = {"faithful": 0.03, "balanced": 0.055, "fast": 0.1}
"""Error of attention, for `search.search_budget`. On the small Wan of the tests these are densities of about .5, .35
and .2, whose videos lie 39, 32 and 27 dB from the dense ones; how real models fare was not measured."""

DEFAULT_PRESET = "balanced"
