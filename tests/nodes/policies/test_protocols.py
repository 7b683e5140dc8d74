"""Policies and the tuner have all that a run asks of them, with the same arguments."""

from __future__ import annotations

import inspect

import pytest
from sparse_vdit.nodes.host.library.found_plans import FoundPlans
from sparse_vdit.nodes.host.policies.calibrate import CalibrationPolicy, Keeper
from sparse_vdit.nodes.host.policies.kernel_tuner import KernelTuner
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.policies.profile import ProfilePolicy
from sparse_vdit.nodes.host.session.call import Observer, Policy, Tuner


@pytest.mark.parametrize(
    ("made", "protocol"),
    [
        (PlanPolicy, Policy),
        (ProfilePolicy, Policy),
        (CalibrationPolicy, Policy),
        (ProfilePolicy, Observer),
        (CalibrationPolicy, Observer),
        (KernelTuner, Tuner),
        (FoundPlans, Keeper),
    ],
    ids=lambda value: value.__name__,
)
def test_what_a_protocol_asks_for_is_there(made: type, protocol: type) -> None:
    asked = {name: value for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"}
    assert len(asked) >= 2
    for name, function in asked.items():
        given = [*inspect.signature(getattr(made, name)).parameters.values()]
        wanted = [*inspect.signature(function).parameters.values()]
        assert [one.name for one in given[: len(wanted)]] == [one.name for one in wanted], name
        assert all(one.default is not inspect.Parameter.empty for one in given[len(wanted) :]), name
