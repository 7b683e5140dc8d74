"""The last run of each node of each workflow, for a page that is loaded again."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict

MAX_BYTES = 16 * 2**20  # of all runs together; one of 60 x 24 heads takes some tens of kilobytes for each band
NO_WORKFLOW = "00000000-0000-0000-0000-000000000000"
"""What ComfyUI writes for a workflow that has no number of its own yet: many have it."""


class LastRuns:
    """Runs as they were sent to the browser, the oldest forgotten first. A workflow is known by the number that ComfyUI
    gives it, which copies under another name do not share.

    Args:
        max_bytes: of all that is kept.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._lock = threading.Lock()  # runs end in another thread than requests are answered in

    def keep(self, workflow: str | None, node: str, run: dict) -> None:
        """Keep a run in the place of the node's last one; of a workflow without a number nothing is kept."""
        if not _is_number(workflow):
            return
        with self._lock:
            self._kept.pop((workflow, node), None)
            self._kept[workflow, node] = json.dumps(run).encode()
            while self._kept and sum(map(len, self._kept.values())) > self.max_bytes:
                self._kept.popitem(last=False)

    def of(self, workflow: str) -> dict[str, dict]:
        """The last runs of a workflow by their nodes."""
        with self._lock:
            found = {node: run for (name, node), run in self._kept.items() if name == workflow}
        return {node: json.loads(run) for node, run in found.items()}


def _is_number(workflow: object) -> bool:
    return isinstance(workflow, str) and 0 < len(workflow) <= 100 and workflow != NO_WORKFLOW
