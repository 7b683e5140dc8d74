"""Pictures of patterns: every pair of tokens where it belongs."""

import numpy as np
import pytest
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Skip, VerticalStripe
from sparse_vdit.plans.view.colours import COLOURS

from benchmarks.report.pattern_pictures import draw_pattern


@pytest.mark.parametrize(
    "pattern", [Dense(), Skip(), Diagonal(), MultiDiagonal(), VerticalStripe()], ids=lambda pattern: pattern.kind
)
def test_pattern_picture_shows_every_pair(pattern):
    """330 + 8 tokens are drawn 1 : 1, so that the picture can be compared with the rule pair by pair."""
    grid = TokenGrid(5, 11, 6, 5, 3)
    attended = pattern.draw(grid, 16, 8) == 255
    picture = draw_pattern(pattern, grid, 16, 8)
    colour = np.array(COLOURS["dense" if pattern.kind in ("dense", "skip") else pattern.kind], dtype=np.uint8)
    inked = (picture == colour).all(-1)
    part = inked[-(338 + 52 + 24) : -(52 + 24), 24 + 72 : 24 + 72 + 338]
    assert np.array_equal(part, attended.numpy())


def test_long_sequences_are_drawn_small():
    picture = draw_pattern(MultiDiagonal(height=0.1, width=0.1), TokenGrid(9, 30, 40))
    assert max(picture.shape) < 1000
