"""Plans that are kept for pictures of their heads."""

from __future__ import annotations

import dataclasses

import torch
from sample_plans import small_plan
from sparse_vdit.nodes.host.ui.pictured import PicturedPlans


def test_a_plan_keeps_its_token_and_its_maps() -> None:
    kept, plan, maps = PicturedPlans(), small_plan(), torch.ones(1)
    token = kept.keep(plan, "", maps)
    assert kept.keep(plan, "user/x") == token  # as when it has run
    assert kept.get(token).maps is maps
    assert kept.get(token).name == "user/x"
    equal = dataclasses.replace(plan)
    assert equal == plan
    assert kept.keep(equal) != token  # perhaps of another profile
    assert kept.get("") is None


def test_the_latest_are_kept() -> None:
    kept, plans = PicturedPlans(most=2), [dataclasses.replace(small_plan()) for _ in range(3)]
    first, second = kept.keep(plans[0]), kept.keep(plans[1])
    kept.keep(plans[0])
    third = kept.keep(plans[2])
    assert kept.get(second) is None
    assert kept.get(first).plan is plans[0]
    assert kept.get(third).plan is plans[2]
