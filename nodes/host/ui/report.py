"""Says what a run did, in the log and on the node."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import Counter
from pathlib import Path

import folder_paths
from server import PromptServer

from ....plans.plan.writing import write_new
from ..core import fallback
from ..core.fallback import Dense
from ..core.stats import CallCounts, RunStats, grid_name
from ..session.run import Run
from .viewer import show_run

DETAILS = "sparse_vdit"
"""Folder under ComfyUI's output for detailed reports."""

MAX_GRIDS = 2  # in a report
MUCH = 0.25  # of the calls; what keeps more of them dense is worth a word

LOG = logging.getLogger("sparse_vdit")


class NothingSparseError(RuntimeError):
    """A run in strict mode had no sparse call."""


def show_on_node(text: str, node_id: str | None) -> None:
    """Show a text on a node of the running workflow; nothing happens without a server."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)


def say(text: str, node_id: str | None) -> None:
    """Say something of a run that goes on, in the log and on the node."""
    LOG.info("Sparse-vDiT: %s", text)
    show_on_node(text, node_id)


def warn(text: str, node_id: str | None) -> None:
    """Warn of something, in the log and on the node."""
    LOG.warning("Sparse-vDiT: %s", text)
    show_on_node(text, node_id)


def report(run: Run | Dense, node_id: str | None, strict: bool, verbose: bool = False) -> None:
    """One line for a run, or for the reason why all of it stays dense: a warning when nothing ran sparse. With
    `verbose` all details, as JSON, in the log and in a new file that the line names.

    Raises:
        NothingSparseError: in strict mode when nothing ran sparse; names the reasons.
    """
    text = report_line(run)
    if verbose:
        found = detail(run)
        LOG.info("Sparse-vDiT details: %s", json.dumps(found))
        text += f"; {write_detail(found)}"
    sparse = isinstance(run, Run) and run.stats.total().sparse > 0
    LOG.log(logging.INFO if sparse else logging.WARNING, text)
    show_on_node(text, node_id)
    try:
        show_run(run, text, node_id)
    except Exception:  # the video is made, and worth more than the picture of how
        LOG.exception("Sparse-vDiT: the plan viewer could not be told of the run")
    if strict and not sparse:
        raise NothingSparseError(f"{text}. Nothing ran sparse and strict is on; turn strict off to go on dense.")


def report_line(run: Run | Dense) -> str:
    """The line that says what ran."""
    if isinstance(run, Dense):
        return f"Sparse-vDiT: everything runs dense: {run}"
    return stats_line(run.stats, run.policy.title, run.policy.summary())


def stats_line(stats: RunStats, title: str = "", summary: str = "") -> str:
    """The line of a run; `title` and `summary` are the policy's."""
    total = stats.total()
    dense = total.self_attention()
    why = ", ".join(f"{name} {count}" for name, count in dense.most_common())
    what = ", ".join(filter(None, (title, grids_line(total))))
    text = "Sparse-vDiT: " + (f"{what}: " if what else "")
    text += f"{total.sparse} sparse / {sum(dense.values())} dense calls" + (f" ({why})" if why else "")
    if total.sparse:
        text += f", mean density {total.density_sum / total.sparse:.2f}, backend {stats.backend}"
        text += f", {1000 * stats.seconds:.0f} ms in sparse attention"
        much = hint_for_much(dense, total.calls())
        text += f"; much ran dense: {much}" if much else ""
    else:
        text += f"; nothing ran sparse: {hint(dense)}"
    return "; ".join(filter(None, [text, summary, *stats.notes]))


def grids_line(total: CallCounts) -> str:
    """The token grids met, in words; empty when none was."""
    names = [grid_name(grid) for grid, _ in total.grids.most_common()]
    more = f" and {len(names) - MAX_GRIDS} others" if len(names) > MAX_GRIDS else ""
    return " and ".join(names[:MAX_GRIDS]) + more + (" tokens" if names else "")


def hint(dense: Counter[Dense]) -> str:
    """Why most likely nothing ran sparse, in words a user understands: the commonest reason, but the warm-up and blocks
    that no plan is about only where there is no other."""
    if not dense:
        return fallback.UNREACHED
    for last in (fallback.VACE_BLOCK, fallback.WARM_UP, fallback.MEASURED):
        dense = Counter({why: calls for why, calls in dense.items() if why != last}) or Counter({last: 1})
    likely = max(dense, key=dense.get)
    return likely.hint or likely.reason


def hint_for_much(dense: Counter[Dense], calls: int) -> str:
    """What helps against the commonest reason that nobody intended, where it keeps much of so many calls dense; empty
    where nothing does."""
    unintended = {why: count for why, count in dense.items() if not why.intended}
    likely = max(unintended, key=unintended.get, default=None)
    return likely.hint if likely is not None and unintended[likely] > MUCH * calls else ""


def detail(run: Run | Dense) -> dict:
    """All that is known of a run, for JSON."""
    known = {"report": report_line(run)}
    if isinstance(run, Dense):
        return {**known, "refusal": run.reason, "stopped": None, **RunStats().detail()}
    stopped = None if run.stopped is None else run.stopped.reason
    return {**known, "refusal": None, "stopped": stopped, **run.policy.detail(), **run.stats.detail()}


def write_detail(found: dict) -> str:
    """Write the details into a new file in ComfyUI's output folder, else in its temporary one; says where."""
    content = json.dumps(found, indent=1).encode()
    for folder in (folder_paths.get_output_directory(), folder_paths.get_temp_directory()):
        path = Path(folder) / DETAILS / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return f"details in {write_new(path, content)}"
        except OSError as error:
            LOG.warning("Sparse-vDiT: details could not be written to %s: %s", path, error)
    return "details are in the log alone, no folder could be written"
