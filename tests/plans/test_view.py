"""What the viewer in the browser gets of a plan."""

import dataclasses
import json

import pytest
import torch
from made_up_profiles import CANDIDATES, made_up, random_errors
from sample_plans import small_plan
from sparse_vdit.kernels.patterns import Diagonal, VerticalStripe
from sparse_vdit.plans.profile.columns import ProfiledStripe
from sparse_vdit.plans.search.chosen import plan_of
from sparse_vdit.plans.search.cost import plan_speedup
from sparse_vdit.plans.view.view import measured_errors, plan_view


def test_all_that_is_shown_is_there_as_plain_json() -> None:
    plan = small_plan()
    view = plan_view(plan, name="user/<b>")
    assert json.loads(json.dumps(view)) == view
    assert view["name"] == "user/<b>"
    assert [view["layers"], view["heads"]] == [4, 3]
    assert [band["heads"] for band in view["bands"]] == [[list(row) for row in band.heads] for band in plan.bands]
    densities = plan.pattern_densities()
    for number, shown in enumerate(view["patterns"]):
        assert shown["kind"] == plan.patterns[number].kind
        assert shown["words"] == plan.patterns[number].describe()
        assert shown["density"] == densities[number]
    assert view["expected"]["speedup"] == plan_speedup(plan)[0]


def test_every_pattern_has_a_colour_of_its_kind_that_the_legend_shows() -> None:
    view = plan_view(small_plan())
    kinds = {kind["kind"]: kind for kind in view["kinds"]}
    assert len({kind["colour"] for kind in kinds.values()}) == len(kinds)
    assert {pattern["kind"] for pattern in view["patterns"]} <= kinds.keys()
    assert all(len(row) == 5 for kind in kinds.values() for row in kind["mark"])


def test_a_pattern_that_no_head_uses_has_no_density() -> None:
    plan = small_plan()
    view = plan_view(dataclasses.replace(plan, patterns=(*plan.patterns, Diagonal(frames=2))))
    assert view["patterns"][-1]["density"] is None


def test_errors_are_those_of_the_chosen_candidates() -> None:
    profile = made_up(random_errors(3))
    choice = torch.randint(0, len(CANDIDATES), (2, 3, 4), generator=torch.Generator().manual_seed(1))
    plan = plan_of(profile, [0, 1], choice, "test", {})
    errors = torch.tensor(measured_errors(plan, profile), dtype=torch.float64)
    wanted = profile.measures["relative"].gather(-1, choice[..., None])[..., 0].sqrt()
    assert torch.equal(errors, wanted)
    later = dataclasses.replace(plan, bands=plan.bands[1:])
    assert torch.equal(torch.tensor(measured_errors(later, profile), dtype=torch.float64), wanted[1:])


def test_errors_of_profiled_stripes_are_found_by_their_columns() -> None:
    plain = made_up(random_errors(3))
    header = dataclasses.replace(
        plain.header,
        candidates=(*CANDIDATES[:4], ProfiledStripe(0.06)),
        query_tile=32,
        key_tile=16,
    )
    columns = torch.rand(plain.columns.shape, generator=torch.Generator().manual_seed(2))
    profile = dataclasses.replace(plain, header=header, columns=columns)
    choice = torch.full((2, 3, 4), 4)
    plan = plan_of(profile, [0, 1], choice, "test", {})
    assert all(isinstance(pattern, VerticalStripe) for pattern in plan.patterns)
    assert len(plan.patterns) > 1
    errors = torch.tensor(measured_errors(plan, profile), dtype=torch.float64)
    assert torch.equal(errors, profile.measures["relative"][..., 4].sqrt())


@pytest.mark.parametrize("change", [
    {"family": "ltx"},
    {"grid": (5, 7, 10)},
    {"patterns": (Diagonal(9), *CANDIDATES[1:])},
])  # fmt: skip
def test_no_errors_where_the_profile_is_not_of_the_plan(change: dict) -> None:
    profile = made_up(random_errors(3))
    plan = plan_of(profile, [0, 1], torch.arange(24).reshape(2, 3, 4) % 5, "test", {})
    assert measured_errors(dataclasses.replace(plan, **change), profile) is None
    band = dataclasses.replace(plan.bands[0], sigma_high=1.5)
    assert measured_errors(dataclasses.replace(plan, bands=(band, plan.bands[1])), profile) is None
