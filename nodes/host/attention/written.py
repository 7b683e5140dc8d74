"""What models write into transformer_options while they run: part of the call for attention of other nodes.

Code that is compiled as a whole has a dict of its own, which nobody sees while it runs: what it has written there goes
to the pack's operator with the call. Operators take texts and lists of whole numbers, which may be symbols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

LISTS = {"grid_sizes": torch.Size, "img_slice": list}
"""Keys of lists of numbers, and what makes one of them as models do."""

NUMBERS = ("block_index", "total_blocks")
TEXTS = ("block_type",)


def packed(options: Mapping) -> tuple[str, list[int]]:
    """What a model has written so far, as a text and numbers."""
    words = [f"{name}={options[name]}" for name in TEXTS if name in options]
    numbers = []
    for name in (*NUMBERS, *LISTS):
        if name in options:
            value = options[name] if name in LISTS else (options[name],)
            words.append(f"{name}:{len(value)}")
            numbers.extend(value)
    return " ".join(words), numbers


def unpacked(words: str, numbers: Sequence[int]) -> dict:
    """The same as it was in transformer_options."""
    found, rest = {}, list(numbers)
    for word in words.split():
        name, is_text, value = word.partition("=")
        if is_text:
            found[name] = value
            continue
        name, _, count = word.partition(":")
        mine, rest = rest[: int(count)], rest[int(count) :]
        found[name] = LISTS[name](mine) if name in LISTS else mine[0]
    return found
