"""The pause of ComfyUI's memory compiler (comfy-aimdo, ComfyUI 0.34 and later; "malloc graph" in its code).

MiniMax H3, LTX-2 and some others record what the first block of a forward allocates and frees; every later block, of
every later forward, then gets its memory by this record. What follows from comfy-aimdo 0.5.0 to 0.6.0 for the pack:

- What was allocated while recording must not be freed in a pause. The driver does not know its address: the process
  aborts.
- What was allocated in a pause must not be freed while recording. Before comfy-aimdo 0.5.3 that ends the sampling.
- What a block allocates must be freed before its end. Else its memory is lost to the record.
- A block with another sequence of sizes is recorded anew (a "graph break"), which costs time once. The pack adds one
  sequence, that of a sparse call: the allocation of its output.
- `pause_malloc_graph` does not nest: the end of an inner pause resumes the recording.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

PREFETCH = "comfy.model_prefetch"

_this_thread = threading.local()  # as ComfyUI has one record for each thread


def recording() -> bool:
    """Whether ComfyUI may be recording; where it does not say, it is taken to."""
    module = sys.modules.get(PREFETCH)
    if getattr(module, "pause_malloc_graph", None) is None:
        return False
    graphs = getattr(module, "MALLOC_GRAPHS", None)
    return graphs is None or any(getattr(graph, "_comfy_active", True) for graph in list(graphs.values()))


@contextmanager
def recording_paused() -> Iterator[bool]:
    """Around work whose allocations differ from call to call, or outlive the block. Gives whether there is a recording.

    Within another one it does nothing.
    """
    recorded = recording()
    if not recorded or getattr(_this_thread, "pauses", None) is not None:
        yield recorded
        return
    with ExitStack() as _this_thread.pauses:
        try:
            pause_again()
            yield True
        finally:
            _this_thread.pauses = None


def pause_again() -> None:
    """After a call of other code within a pause: if that had a pause of its own, its end has resumed the recording."""
    pauses = getattr(_this_thread, "pauses", None)
    if pauses is not None:
        pauses.enter_context(sys.modules[PREFETCH].pause_malloc_graph())
