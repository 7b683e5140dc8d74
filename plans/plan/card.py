"""The card of a shipped plan: which model it is for, what of it was measured there, and what may be found from it."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import check_items, check_name, check_number, check_text, check_whole, show

MAX_KEPT_DENSE = 2048


@dataclass(frozen=True)
class Card:
    """What a shipped plan says beside its provenance.

    Attributes:
        model: published model that it is for, as its makers call it.
        measured: what was measured on that very model, in words.
        not_measured: what was not, in words.
        least_density: mean density over all heads, below which no plan may be that calibration finds for this model.
        densities: mean density of each layer over bands and heads on the plan's grid; 1 where nothing was measured,
            empty where the card says nothing of it.
        kept_dense: (layer, head) of heads that calibration must leave dense.
    """

    model: str
    measured: str
    not_measured: str
    least_density: float
    densities: tuple[float, ...] = ()
    kept_dense: tuple[tuple[int, int], ...] = ()


def check_card(path: str, card: object, layers: int, heads: int) -> None:
    """Raise ValueError, naming the field, unless a plan of so many layers and heads may have this card."""
    if not isinstance(card, Card):
        raise ValueError(f"{path}: {show(card)} is no Card")
    check_name(f"{path}.model", card.model)
    check_text(f"{path}.measured", card.measured)
    check_text(f"{path}.not_measured", card.not_measured)
    _check_share(f"{path}.least_density", card.least_density)
    check_items(f"{path}.densities", card.densities, object, layers if card.densities else 0, layers)
    for number, density in enumerate(card.densities):
        _check_share(f"{path}.densities[{number}]", density)
    check_items(f"{path}.kept_dense", card.kept_dense, tuple, 0, MAX_KEPT_DENSE)
    for number, place in enumerate(card.kept_dense):
        check_items(f"{path}.kept_dense[{number}]", place, int, 2, 2)
        for value, count in zip(place, (layers, heads), strict=True):
            check_whole(f"{path}.kept_dense[{number}]", value, 0, count - 1)


def _check_share(path: str, value: float) -> None:
    check_number(path, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{path}: {show(value)} is out of range, expected a number from 0 to 1")
