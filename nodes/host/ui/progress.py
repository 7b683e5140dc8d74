"""A progress bar on a node that has run already: what its patch does while the sampler runs is shown where the user set
it up. ComfyUI's own `ProgressBar` also sends the older message that names one node alone, which is the sampler's."""

from __future__ import annotations

import logging

from comfy_execution.progress import get_progress_state

LOG = logging.getLogger("sparse_vdit")


def show_progress(done: int, of: int, node_id: str | None) -> None:
    """Show how much of something is done; the bar goes when all is. No error of it, as other packs may listen too, is
    worth what is done meanwhile."""
    if node_id is None:
        return
    try:
        get_progress_state().update_progress(node_id, done, of)
    except Exception:
        LOG.exception("Sparse-vDiT: progress could not be shown")
    if done >= of:
        end_progress(node_id)


def end_progress(node_id: str | None) -> None:
    """Take a bar away, if one is there."""
    try:
        if node_id in get_progress_state().nodes:
            get_progress_state().finish_progress(node_id)
    except Exception:
        LOG.exception("Sparse-vDiT: progress could not be shown")
