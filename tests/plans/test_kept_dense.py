"""What users keep dense: its text, the plan with it, and what then is to be expected of the plan."""

import dataclasses

import pytest
import torch
from sample_plans import small_plan
from sparse_vdit.kernels.patterns import Dense
from sparse_vdit.plans.plan.files import plan_from_json, plan_to_json
from sparse_vdit.plans.search.cost import head_costs, plan_speedup
from sparse_vdit.plans.search.kept_dense import KeptDense, kept_dense, missing_layers, with_dense


@pytest.mark.parametrize("text, layers, kinds, told", [
    ("", (), (), ""),
    (" , ", (), (), ""),
    ("0, 3-5,skip", (0, 3, 4, 5), ("skip",), "0, 3-5, skip"),
    ("union ,7 - 8, 6, 2-2", (2, 6, 7, 8), ("union",), "2, 6-8, union"),
])  # fmt: skip
def test_texts(text: str, layers: tuple, kinds: tuple, told: str) -> None:
    found = kept_dense(text)
    assert found == KeptDense(frozenset(layers), frozenset(kinds))
    assert str(found) == told
    assert kept_dense(str(found)) == found
    assert bool(found) == bool(told)


@pytest.mark.parametrize("text", ["dense", "5-3", "-1", "512", "0-511111", "3.5", "skip union", "profiled_stripe"])
def test_other_texts_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"^keep_dense: ") as error:
        kept_dense(text)
    assert repr(text) in str(error.value)


def test_heads_of_the_layers_and_kinds_are_dense_and_all_others_as_before() -> None:
    plan, kept = small_plan(), kept_dense("1, skip")
    found = with_dense(plan, kept)
    for band in range(2):
        for layer in range(4):
            for head in range(3):
                before = plan.pattern(band, layer, head)
                wanted = Dense() if layer == 1 or before.kind == "skip" else before
                assert found.pattern(band, layer, head) == wanted
    assert "skip" not in {pattern.kind for pattern in found.patterns}
    assert plan_from_json(plan_to_json(found)) == found
    assert found.provenance.parameters["keep_dense"] == "1, skip"
    assert with_dense(plan, KeptDense()) is plan


def test_a_layer_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="layers 4-9 cannot be kept dense, the model has the layers 0 to 3"):
        with_dense(small_plan(), kept_dense("2-9"))
    assert missing_layers(10, kept_dense("2-9")) is None


def test_what_the_plan_told_of_itself_follows() -> None:
    told = {"attention_speedup": 3.0, "times": "measured on a card", "mean_density": 0.2, "predicted_error": 0.1}
    plan = small_plan(provenance=dataclasses.replace(small_plan().provenance, parameters=told))
    bare = small_plan()
    found, counted = (with_dense(some, kept_dense("0")) for some in (plan, bare))
    expected, times = plan_speedup(found)
    assert times == "measured on a card"
    ratio = plan_speedup(counted)[0] / plan_speedup(bare)[0]
    assert ratio < 1
    assert expected == pytest.approx(3.0 * ratio, abs=1e-3)
    assert not {"mean_density", "predicted_error"} & found.provenance.parameters.keys()
    everything = with_dense(plan, kept_dense("0-3"))
    assert head_costs(everything).speedup(torch.zeros(2, 4, 3, dtype=torch.int64)) == pytest.approx(1)


def test_a_text_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="5000 characters are too many"):
        kept_dense("1," * 2500)
