"""Weights of the budget: from errors that were injected, and what a search makes of them."""

import pytest
import torch
from made_up_profiles import chosen, made_up
from sparse_vdit.plans.profile.profile import merge_profiles, one_band
from sparse_vdit.plans.search.search import MEASURED, UNMEASURED, search_budget
from sparse_vdit.plans.search.sensitivity import MOST, error_weights, layer_groups

ERRORS = [[[[0, 1, 0.4, 0.2, 0.3]] * 3, [[0, 1, 0.4, 0.2, 0.3]] * 3]]  # (1 band, 2 layers, 3 heads, 5 candidates)


def injected(output: list, attention: list) -> torch.Tensor:
    return torch.tensor([output, attention], dtype=torch.float64)


@pytest.mark.parametrize(("layers", "count"), [(7, 3), (40, 6), (5, 5), (3, 9)])
def test_groups_hold_every_layer_once(layers: int, count: int) -> None:
    groups = layer_groups(layers, count)
    assert [layer for group in groups for layer in group] == list(range(layers))
    assert len(groups) == min(layers, count)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_no_group_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 groups of layers"):
        layer_groups(7, 0)


def test_a_weight_is_the_outputs_error_per_error_of_attention() -> None:
    weights = error_weights(injected([[4.0, 3.0, 2.0]], [[2.0, 3.0, 4.0]]))
    assert weights.shape == (1, 3, 1)
    assert (weights[0, 0] / weights[0, 2]).item() == pytest.approx(4)
    assert weights.mean().item() == pytest.approx(1)


def test_what_was_not_measured_weighs_as_the_mean_does() -> None:
    weights = error_weights(injected([[6.0, 2.0, 0.0]], [[2.0, 2.0, 5.0]]))[0, :, 0].tolist()
    assert weights == pytest.approx([1.5, 0.5, 1.0])
    assert error_weights(torch.zeros(2, 3, 5)) is None


def test_no_weight_lies_far_from_the_mean() -> None:
    weights = error_weights(injected([[1.0] * 30 + [1e9, 1e-9]], [[1.0] * 32]))
    assert weights.max().item() == MOST and weights.min().item() == 1 / MOST


def test_a_search_goes_by_what_the_profile_has_measured() -> None:
    """Of two layers with the same errors the one that matters more gets the denser patterns."""
    plain = search_budget(made_up(ERRORS), density=0.5)
    assert plain.provenance.parameters["sensitivity"] == UNMEASURED
    assert sorted(chosen(plain)[0, 0].tolist()) == sorted(chosen(plain)[0, 1].tolist())
    weighed = search_budget(made_up(ERRORS, injected=injected([[8.0, 1.0]], [[1.0, 1.0]])), density=0.5)
    assert weighed.provenance.parameters["sensitivity"] == MEASURED
    kept = torch.tensor([1.0, 0.0, 0.2, 0.5, 0.3])[chosen(weighed)].sum(-1)[0]
    assert kept[0] > kept[1]
    unweighed = search_budget(
        made_up(ERRORS, injected=injected([[8.0, 1.0]], [[1.0, 1.0]])), density=0.5, weights=torch.ones(1)
    )
    assert chosen(unweighed).tolist() == chosen(plain).tolist()


def test_several_prompts_add_up() -> None:
    first = made_up(ERRORS, injected=injected([[1.0, 2.0]], [[1.0, 1.0]]))
    second = made_up(ERRORS, injected=injected([[3.0, 0.0]], [[1.0, 0.0]]))
    assert merge_profiles(first, second).injected.tolist() == [[[4.0, 2.0]], [[2.0, 1.0]]]


def test_bands_keep_their_own() -> None:
    both = made_up(ERRORS * 2, injected=injected([[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]))
    late, early = one_band(both, 1), one_band(both, 0)
    assert late.injected.tolist() == [[[3.0, 4.0]], [[7.0, 8.0]]]
    assert merge_profiles(late, early).injected.tolist() == both.injected.tolist()
    assert late.header.bands == both.header.bands[1:]


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "not finite"), (-1.0, "below zero")])
def test_odd_numbers_are_refused(value: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"injected has values that are .*{message}"):
        made_up(ERRORS, injected=injected([[value, 1.0]], [[1.0, 1.0]]))
