"""What the plan viewer in the browser is told: plans by their listed names, and what a run did."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from aiohttp import web
from server import PromptServer

from ....plans.files import load_plan
from ....plans.head_drawing import as_png, draw_head
from ....plans.plan import Plan
from ....plans.profile import Profile
from ....plans.profile_files import ProfileError, load_profile
from ....plans.view import measured_errors, plan_view
from ..plan_choice.plan_folders import plan_files, profile_beside
from ..runs.engine import NOT_VIEWED
from ..runs.run import Run
from .ledger import Ledger
from .reasons import NOT_SELF_ATTENTION

ROUTE, HEAD_ROUTE = "/sparse_vdit/plan", "/sparse_vdit/head"
RAN = "sparse_vdit.ran"
SHOWN = "sparse_vdit_plan"
"""Key of a plan's view among what a node shows when it has run."""


def register() -> None:
    """Tell ComfyUI of the routes; nothing happens without a server."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(ROUTE)(answer)
        server.routes.get(HEAD_ROUTE)(picture)


async def answer(request: web.Request) -> web.Response:
    """A listed plan's view as JSON, or why there is none."""
    name = request.query.get("name", "")
    path = (await asyncio.to_thread(plan_files)).get(name)
    if path is None:
        return web.json_response({"error": f"plan {name[:200]!r} is not here"}, status=404)
    try:
        view = await asyncio.to_thread(_view, name, path, *map(_age, (path, profile_beside(path))))
    except (ValueError, OSError) as error:
        return web.json_response({"error": str(error)}, status=422)
    return web.json_response({"view": view})


async def picture(request: web.Request) -> web.Response:
    """PNG of what a head of a listed plan attends and runs, or why there is none; `head` is `band,layer,head`."""
    name, place = request.query.get("name", ""), request.query.get("head", "")
    path = (await asyncio.to_thread(plan_files)).get(name)
    if path is None or not re.fullmatch(r"\d{1,4}(,\d{1,4}){2}", place):
        return web.json_response({"error": f"plan {name[:200]!r} or its head {place[:200]!r} is not here"}, status=404)
    try:
        content = await asyncio.to_thread(_picture, path, *map(int, place.split(",")))
    except (ValueError, OSError) as error:
        return web.json_response({"error": str(error)}, status=422)
    return web.Response(body=content, content_type="image/png")


def _picture(path: Path, band: int, layer: int, head: int) -> bytes:
    plan, profile = _read(path, *map(_age, (path, profile_beside(path))))
    return as_png(draw_head(plan, profile, band, layer, head))


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=8)
def _view(name: str, path: Path, age: int, profile_age: int) -> dict:
    """A plan's view; the ages of its file and of the profile beside it tell when it has to be made anew."""
    plan, profile = _read(path, age, profile_age)
    return plan_view(plan, errors=None if profile is None else measured_errors(plan, profile), name=name)


@lru_cache(maxsize=1)
def _read(path: Path, age: int, profile_age: int) -> tuple[Plan, Profile | None]:
    """A plan, and the profile beside it where one can be read."""
    plan = load_plan(path)
    try:
        return plan, load_profile(profile_beside(path)) if profile_age else None
    except (ProfileError, OSError):  # the plan can be shown without
        return plan, None


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
