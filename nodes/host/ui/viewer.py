"""Data for the map of heads in the browser: plans by their listed names, pictures of heads, and what runs did."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from aiohttp import web
from server import PromptServer

from ....kernels.patterns import Routed
from ....plans.plan.binding import own_densities
from ....plans.plan.files import load_plan
from ....plans.plan.plan import Plan
from ....plans.profile.profile import Profile
from ....plans.profile.profile_files import ProfileError, load_profile
from ....plans.view.colours import UNSHADED
from ....plans.view.head_drawing import as_png, draw_head, fitting_maps
from ....plans.view.view import measured_errors, plan_view
from ..core.fallback import Dense
from ..core.stats import SPARSE, RunStats, by_text
from ..library.folders import file_state, plan_files, profile_beside
from ..policies.calibrate import CalibrationPolicy
from ..policies.plan import PlanPolicy
from ..session.call import Policy
from ..session.run import Run
from .last_runs import LastRuns
from .pictured import Pictured, pictured_plans
from .summary import Report

ROUTE, HEAD_ROUTE, RUNS_ROUTE = "/sparse_vdit/plan", "/sparse_vdit/head", "/sparse_vdit/runs"
RAN = "sparse_vdit.ran"
SHOWN = "sparse_vdit_plan"
"""Key of a plan's view among what a node shows when it has run."""
ATTENDS = "Sparse-vDiT-Attends"
"""Header of a head's picture: whether what the head attends was `measured`, or is `unknown` and left out."""
SHAPELESS = (*UNSHADED, Routed.kind)
"""Kinds whose pattern is no picture: all, nothing, or other tiles in each call."""
FORGOTTEN = "this plan is no longer kept for pictures: run the workflow again"

_last_runs = LastRuns()


def register() -> None:
    """Tell ComfyUI of the routes; nothing happens without a server."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(ROUTE)(answer)
        server.routes.get(HEAD_ROUTE)(picture)
        server.routes.get(RUNS_ROUTE)(runs)


async def answer(request: web.Request) -> web.Response:
    """A listed plan's view as JSON, or an error."""
    name = request.query.get("name", "")
    path = (await asyncio.to_thread(plan_files)).get(name)
    if path is None:
        return web.json_response({"error": f"plan {name[:200]!r} is not here"}, status=404)
    try:
        view = await asyncio.to_thread(_view, name, path, *map(file_state, (path, profile_beside(path))))
    except (ValueError, OSError) as error:
        return web.json_response({"error": str(error)}, status=422)
    return web.json_response({"view": view})


async def picture(request: web.Request) -> web.Response:
    """PNG of what a head attends and runs, or an error; `head` is `band,layer,head`, its plan a listed `name`
    or one that a node has `shown`."""
    query = request.query
    name, token, place = (query.get(key, "") for key in ("name", "shown", "head"))
    shown, path = pictured_plans.get(token), (await asyncio.to_thread(plan_files)).get(name)
    if token and shown is None:
        return web.json_response({"error": FORGOTTEN}, status=404)
    if (shown is None and path is None) or not re.fullmatch(r"\d{1,4}(,\d{1,4}){2}", place):
        return web.json_response({"error": f"plan {name[:200]!r} or its head {place[:200]!r} is not here"}, status=404)
    try:
        content, attends = await asyncio.to_thread(_picture, shown or path, *map(int, place.split(",")))
    except (ValueError, OSError) as error:
        return web.json_response({"error": str(error)}, status=422)
    if not content:
        return web.Response(status=204)
    return web.Response(body=content, content_type="image/png", headers={ATTENDS: attends})


async def runs(request: web.Request) -> web.Response:
    """The last runs of a workflow's nodes, by node number, as they were sent when they ended."""
    return web.json_response({"runs": _last_runs.of(request.query.get("workflow", ""))})


def _picture(of: Pictured | Path, band: int, layer: int, head: int) -> tuple[bytes, str]:
    """A head's picture, empty where there is nothing to draw, and the header that says what is in it."""
    if isinstance(of, Path):
        plan, profile = _read(of, *map(file_state, (of, profile_beside(of))))
        maps = fitting_maps(plan, profile)
    else:
        plan, maps = of.plan, of.maps
        path = plan_files().get(of.name)
        if maps is None and path is not None:
            maps = fitting_maps(plan, _profile(profile_beside(path), file_state(profile_beside(path))))
    drawn = draw_head(plan, maps, band, layer, head)
    empty = maps is None and plan.pattern(band, layer, head).kind in SHAPELESS
    return b"" if empty else as_png(drawn), "unknown" if maps is None else "measured"


@lru_cache(maxsize=8)
def _view(name: str, path: Path, state: tuple, profile_state: tuple) -> dict:
    """A plan's view; made anew when the states of its file and its profile change."""
    plan, profile = _read(path, state, profile_state)
    errors = None if profile is None else measured_errors(plan, profile)
    return {**plan_view(plan, errors=errors, name=name), "pictures": {"name": name}}


@lru_cache(maxsize=1)
def _read(path: Path, state: tuple, profile_state: tuple) -> tuple[Plan, Profile | None]:
    """A plan, and the profile beside it where one can be read."""
    return load_plan(path), _profile(profile_beside(path), profile_state)


@lru_cache(maxsize=1)
def _profile(path: Path, state: tuple) -> Profile | None:
    """The profile of a file, None where none can be read: the plan can be shown without."""
    try:
        return load_profile(path) if state else None
    except (ProfileError, OSError):
        return None


def shown_plan(plan: Plan, name: str, profile: Profile | None) -> dict:
    """A plan that a node has made and no file holds: its view, and its heads' pictures for as long as they are kept.

    Args:
        name: empty for a plan without one.
        profile: that it comes from, None where that is not known.
    """
    errors = None if profile is None else measured_errors(plan, profile)
    token = pictured_plans.keep(plan, name, fitting_maps(plan, profile))
    return {**plan_view(plan, errors=errors, name=name), "pictures": {"shown": token}}


def show_run(run: Run | Dense, report: Report, node_id: str | None) -> None:
    """Send what a run did to the browser that asked for it, and keep it for when the page is loaded again; nothing
    happens without a server."""
    server = getattr(PromptServer, "instance", None)
    if getattr(server, "client_id", None) is None or node_id is None:
        return
    workflow = running_workflow(server)
    stats, policy = (RunStats(), None) if isinstance(run, Dense) else (run.stats, run.policy)
    words = {"verdict": report.verdict, "advice": report.advice, "report": report.details, "line": str(report)}
    sent = {"node": node_id, "workflow": workflow, **words, **_counted(stats), **ran_plan(policy, stats)}
    _last_runs.keep(workflow, node_id, sent)
    server.send_sync(RAN, sent, server.client_id)


def ran_plan(policy: Policy | None, stats: RunStats) -> dict:
    """View of the plan that ran, before anything of it was kept dense, for the grid that was met last; what was kept
    dense of it; measured speed-up of attention."""
    planned = policy.planned if isinstance(policy, CalibrationPolicy) else policy
    if not isinstance(planned, PlanPolicy):
        return {"view": None, "kept": "", "speedup": None}
    plan = planned.whole
    if isinstance(policy, CalibrationPolicy) and policy.found_here and policy.measured is not None:
        pictured_plans.keep(plan, maps=fitting_maps(plan, policy.measured))  # no file holds it
    densities, table = next(reversed(planned.met.values()), ((), ()))
    met = {
        planned.plan.patterns[number]: densities[at]
        for band, rows in zip(planned.plan.bands, table, strict=False)
        for numbers, row in zip(band.heads, rows, strict=True)
        for number, at in zip(numbers, row, strict=True)
    }
    here = {number: met.get(plan.patterns[number], density) for number, density in own_densities(plan).items()}
    pictures = {"shown": pictured_plans.keep(plan, plan.label)}
    grid = next(reversed(planned.met), None)
    view = {**plan_view(plan, here, name=plan.label, grid=None if grid is None else grid.shape), "pictures": pictures}
    speedup = None if planned.tuner is None else planned.tuner.speedup(stats.total().calls())
    return {"view": view, "kept": str(planned.kept), "speedup": speedup}


def running_workflow(server: PromptServer) -> str | None:
    """Number of the workflow that runs now, None where it has none. It is asked for when a run ends, as ComfyUI gives
    the outputs of nodes to other workflows too."""
    running, _ = server.prompt_queue.get_current_queue_volatile()
    for _, prompt_id, _, extra, *_ in running:
        if prompt_id == server.last_prompt_id:
            workflow = (extra.get("extra_pnginfo") or {}).get("workflow")
            return workflow.get("id") if isinstance(workflow, dict) else None
    return None


def _counted(stats: RunStats) -> dict:
    """Self-attention calls as a whole, by layer and by forward."""
    total, found = stats.total(), stats.detail()
    others = {why.reason for why in total.dense if not why.self_attention}

    def counted(calls: Mapping[str, int]) -> dict[str, int]:
        return {name: count for name, count in calls.items() if name not in others}

    return {
        SPARSE: total.sparse,
        "mean_density": found["mean_density"],
        "dense": counted(by_text(total.dense)),
        "layers": {layer: counted(calls) for layer, calls in found["layers"].items()},
        "forwards": [{**forward, "dense": counted(forward["dense"])} for forward in found["forwards"]],
    }
