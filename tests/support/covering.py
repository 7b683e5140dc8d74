"""Cases over several axes: a few with every value of each for every run of the tests, all others when asked for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest


def covering(*axes: Mapping[str, object] | Sequence[object]) -> list:
    """All combinations as parameters, marked slow but for one of each value of the first axis, which go through the
    values of the others in turn: with six, three and two values these are six cases, of thirty-six.

    Args:
        axes: values, by their names in tests' ids where they have some; the first one has the most.
    """
    named = [[*axis.items()] if isinstance(axis, Mapping) else [(str(one), one) for one in axis] for axis in axes]
    cases = []
    for numbers in itertools.product(*(range(len(axis)) for axis in named)):
        turn, wanted = numbers[0], [numbers[0]]
        for axis in named[1:]:
            wanted.append(turn % len(axis))
            turn //= len(axis)
        chosen = [axis[number] for axis, number in zip(named, numbers, strict=True)]
        marks = () if [*numbers] == wanted else (pytest.mark.slow,)
        names, values = zip(*chosen, strict=True)
        cases.append(pytest.param(*values, id="-".join(names), marks=marks))
    return cases
