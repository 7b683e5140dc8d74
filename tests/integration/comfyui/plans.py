"""Plans for the small Wan in the server's folder of the user's plans."""

from __future__ import annotations

import shutil
from pathlib import Path

from sparse_vdit.kernels.patterns import Pattern
from sparse_vdit.plans.plan.files import save_plan
from sparse_vdit.plans.plan.plan import Plan, uniform_plan

from .results import PLANS
from .server import Server

LAYERS, HEADS, HEAD_DIM = 4, 3, 128


def wan_plan(pattern: Pattern, **options: object) -> Plan:
    """A plan with one pattern for all heads of the small Wan."""
    return uniform_plan("wan", LAYERS, HEADS, HEAD_DIM, (5, 8, 11), pattern, **options)


def add_plan(server: Server, name: str, pattern: Pattern, **options: object) -> Path:
    """Such a plan where Load Sparse Plan lists it as user/<name>."""
    return save_plan(wan_plan(pattern, **options), server.base / PLANS / f"{name}.json", overwrite=True)


def forget_plans(server: Server) -> None:
    """Remove all plans of the user's, those of calibrations too."""
    shutil.rmtree(server.base / PLANS)
    (server.base / PLANS).mkdir()
