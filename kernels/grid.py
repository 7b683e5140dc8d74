"""The token grid: how a sequence of tokens is laid out in video and text."""

from __future__ import annotations

import math
from typing import NamedTuple


class TokenGrid(NamedTuple):
    """Video tokens in raster order (frames, height, width; width fastest) between text or reference tokens.

    The sequence is [prefix | frames * height * width video tokens | suffix]. Sizes are tokens after patchify. A named
    tuple, as compilers follow it through a model's code.
    """

    frames: int
    height: int
    width: int
    prefix: int = 0
    suffix: int = 0

    def check(self) -> None:
        """Raise ValueError where a size is no whole number, a video axis is below 1 or a text count below 0."""
        for name, least in (("frames", 1), ("height", 1), ("width", 1), ("prefix", 0), ("suffix", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"token grid: {name} is {value!r}, expected a whole number of at least {least}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, height, width) in tokens."""
        return self.frames, self.height, self.width

    @property
    def video_tokens(self) -> int:
        return math.prod(self.shape)

    @property
    def text_tokens(self) -> int:
        return self.prefix + self.suffix

    @property
    def tokens(self) -> int:
        """Length of the whole sequence."""
        return self.video_tokens + self.text_tokens

    def __str__(self) -> str:
        text = f" + {self.prefix} before + {self.suffix} after" if self.text_tokens else ""
        return f"{self.frames}x{self.height}x{self.width}{text}"
