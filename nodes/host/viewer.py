"""What the plan viewer in the browser is told: plans by their listed names, and what a run did."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from aiohttp import web
from server import PromptServer

from ...plans.files import PlanError, load_plan
from ...plans.profile_files import ProfileError, load_profile
from ...plans.view import HeadNumbers, measured_errors, plan_view
from .engine import NOT_VIEWED
from .ledger import Ledger
from .plan_folders import plan_files, profile_beside
from .reasons import NOT_SELF_ATTENTION
from .run import Run

ROUTE = "/sparse_vdit/plan"
RAN = "sparse_vdit.ran"
SHOWN = "sparse_vdit_plan"
"""Key of a plan's view among what a node shows when it has run."""


def register() -> None:
    """Tell ComfyUI of the route; nothing happens without a server."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(ROUTE)(answer)


async def answer(request: web.Request) -> web.Response:
    """A listed plan's view as JSON, or why there is none."""
    name = request.query.get("name", "")
    path = plan_files().get(name)
    if path is None:
        return web.json_response({"error": f"plan {name[:200]!r} is not here"}, status=404)
    try:
        view = await asyncio.to_thread(_view, name, path, *map(_age, (path, profile_beside(path))))
    except (PlanError, OSError) as error:
        return web.json_response({"error": str(error)}, status=422)
    return web.json_response({"view": view})


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=8)
def _view(name: str, path: Path, age: int, profile_age: int) -> dict:
    """A plan's view; the ages of its file and of the profile beside it tell when it has to be made anew."""
    plan = load_plan(path)
    errors: HeadNumbers | None = None
    if profile_age:
        try:
            errors = measured_errors(plan, load_profile(profile_beside(path)))
        except (ProfileError, OSError):  # of use to the viewer alone where it can be read
            errors = None
    return plan_view(plan, errors=errors, name=name)


def show_run(run: Run, report: str, node_id: str | None) -> None:
    """Send what a run did to the browser that asked for it; nothing happens without a server."""
    server = getattr(PromptServer, "instance", None)
    if getattr(server, "client_id", None) is None or node_id is None:
        return
    engine = NOT_VIEWED if run.engine is None else run.engine.viewed()
    server.send_sync(RAN, {"node": node_id, "report": report, **_counted(run.ledger), **engine}, server.client_id)


def _counted(ledger: Ledger) -> dict:
    """Self-attention calls as a whole, by layer and by forward."""
    detail = ledger.detail()
    return {
        "sparse": ledger.sparse,
        "mean_density": detail["mean_density"],
        "dense": _self_attention(ledger.dense),
        "layers": {layer: _self_attention(calls) for layer, calls in detail["layers"].items()},
        "forwards": [{**forward, "dense": _self_attention(forward["dense"])} for forward in detail["forwards"]],
    }


def _self_attention(calls: Mapping[str, int]) -> dict[str, int]:
    """Without those that no plan is about."""
    return {name: count for name, count in calls.items() if name not in NOT_SELF_ATTENTION}
