"""What tests of the plan viewer share: plans and workflows to look at."""

from __future__ import annotations

import dataclasses

import pytest
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Skip, VerticalStripe
from sparse_vdit.plans.plan.files import save_plan
from sparse_vdit.plans.plan.plan import Band, Plan

from .plans import wan_plan
from .prompts import node, patched, save_latent
from .results import PLANS
from .server import Server

both_renderers = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes-2"])
one_renderer = pytest.mark.parametrize(
    "vue", [pytest.param(False, marks=pytest.mark.slow, id="canvas"), pytest.param(True, id="nodes-2")]
)
"""The newer one; the other one, which such tests hardly hang on, where slow tests run too."""


def mixed_plan() -> Plan:
    """Two bands of several kinds, for the small Wan."""
    patterns = (Dense(), Skip(), Diagonal(frames=1), MultiDiagonal(height=0.1, width=None), VerticalStripe())
    high, low = ((0, 1, 2), (2, 2, 2), (3, 3, 4), (2, 3, 1)), ((2, 2, 2), (2, 2, 3), (3, 3, 4), (2, 3, 2))
    return dataclasses.replace(wan_plan(Dense()), patterns=patterns, bands=(Band(1e6, 0.8, high), Band(0.8, 0.0, low)))


def shown(server: Server, name: str, plan: Plan) -> dict:
    """Workflow that loads a plan, which is kept before."""
    save_plan(plan, server.base / PLANS / f"{name}.json", overwrite=True)
    return {**patched(name), "save": save_latent(("sampler", 0), "viewer")}


def numbered(prompt: dict) -> dict:
    """The same workflow with numbers for names, as the frontend has them."""
    numbers = {name: str(number) for number, name in enumerate(prompt, 1)}

    def linked(value: object) -> object:
        return [numbers[value[0]], value[1]] if isinstance(value, list) else value

    return {
        numbers[name]: node(item["class_type"], **{key: linked(value) for key, value in item["inputs"].items()})
        for name, item in prompt.items()
    }
