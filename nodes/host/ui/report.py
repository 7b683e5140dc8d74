"""Says what a run did, in the log and on the node."""

from __future__ import annotations

import json
import logging
import time
import uuid
from dataclasses import replace
from pathlib import Path

import folder_paths
from server import PromptServer

from ....plans.plan.writing import write_new
from ..core import fallback
from ..core.fallback import Dense
from ..session.run import Run
from .summary import detail, report_of
from .viewer import running_workflow, show_run

DETAILS = "sparse_vdit"
"""Folder under ComfyUI's output for detailed reports."""

SAID = "sparse_vdit.said"
LOG = logging.getLogger("sparse_vdit")


class NothingSparseError(RuntimeError):
    """A run in strict mode had no sparse call."""


def show_on_node(text: str, node_id: str | None) -> None:
    """Show a text on a node of the running workflow, until it says something else; nothing happens without a server."""
    server = getattr(PromptServer, "instance", None)
    if getattr(server, "client_id", None) is not None and node_id is not None:
        server.send_sync(SAID, {"node": node_id, "workflow": running_workflow(server), "text": text}, server.client_id)


def say(text: str, node_id: str | None) -> None:
    """Say something of a run that goes on, in the log and on the node."""
    LOG.info("Sparse-vDiT: %s", text)
    show_on_node(text, node_id)


def warn(text: str, node_id: str | None) -> None:
    """Warn of something, in the log and on the node."""
    LOG.warning("Sparse-vDiT: %s", text)
    show_on_node(text, node_id)


def report(run: Run | Dense, node_id: str | None, strict: bool, verbose: bool = False) -> None:
    """One line in the log for a run, or for the reason why all of it stays dense, a warning when nothing ran sparse;
    its verdict on the node. With `verbose` all details, as JSON, in the log and in a new file that the line names.

    Raises:
        NothingSparseError: in strict mode when nothing ran sparse; names the reasons.
    """
    said = report_of(run)
    if verbose:
        found = detail(run)
        LOG.info("Sparse-vDiT details: %s", json.dumps(found))
        said = replace(said, details="; ".join(filter(None, (said.details, write_detail(found)))))
    text = str(said)
    sparse = isinstance(run, Run) and run.stats.total().sparse > 0
    fine = sparse or run == fallback.NO_STEPS
    LOG.log(logging.INFO if fine else logging.WARNING, text)
    try:
        show_run(run, said, node_id)
    except Exception:  # the video is made, and worth more than the picture of how
        LOG.exception("Sparse-vDiT: the run could not be sent to the plan viewer")
        show_on_node(str(replace(said, details="")).removeprefix("Sparse-vDiT: "), node_id)
    if strict and not fine:
        raise NothingSparseError(f"{text} Nothing ran sparse and strict is on: turn strict off to go on dense.")


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
