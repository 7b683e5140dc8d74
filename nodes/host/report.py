"""Says what a run did, in the log and on the node."""

from __future__ import annotations

import logging

from server import PromptServer

from .run import Run

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


def report(run: Run, node_id: str | None, strict: bool) -> None:
    """One line for a run: a warning when nothing ran sparse.

    Raises:
        NothingSparseError: in strict mode when nothing ran sparse; names the reasons.
    """
    text = run.report()
    LOG.log(logging.INFO if run.sparse else logging.WARNING, text)
    show_on_node(text, node_id)
    if strict and not run.sparse:
        raise NothingSparseError(f"{text}. Nothing ran sparse and strict is on; turn strict off to go on dense.")
