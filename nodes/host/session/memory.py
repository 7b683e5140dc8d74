"""ComfyUI's memory: how much is left, and the pause of its memory compiler.

The compiler (comfy-aimdo, ComfyUI 0.34 and later; "malloc graph" in its code) records what the first block of a forward
allocates and frees, in MiniMax H3, LTX-2 and some others; every later block, of every later forward, then gets its
memory by this record. What follows from comfy-aimdo 0.5.0 to 0.6.0 for the pack:

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

PREFETCH = "comfy.model_prefetch"

_this_thread = threading.local()  # as ComfyUI has one record for each thread


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device has left, as ComfyUI counts it; None without ComfyUI. The driver's own number leaves out
    weights that ComfyUI gives up where memory is wanted, and what PyTorch holds for later."""
    management = sys.modules.get("comfy.model_management")
    return None if management is None else int(management.get_free_memory(device))


def recording() -> bool:
    """Whether ComfyUI may be recording; where it does not say, it is taken to."""
    module = sys.modules.get(PREFETCH)
    if getattr(module, "pause_malloc_graph", None) is None:
        return False
    graphs = getattr(module, "MALLOC_GRAPHS", None)
    if not isinstance(graphs, Mapping):
        return True
    return any(getattr(graph, "_comfy_active", True) for graph in list(graphs.values()))


def unrecorded(make: Callable[[], Tensor | None]) -> Tensor | None:
    """What `make` makes, with all of its work in a pause. Of a tensor a copy is given that was allocated outside of the
    pause, as the model frees it while recording. Where there is no recording, this is `make()`."""
    if not recording():
        return make()
    with recording_paused():
        made = make()
    if made is None:
        return None
    out = torch.empty(made.shape, dtype=made.dtype, device=made.device)
    with recording_paused():
        out.copy_(made)
        del made  # still in the pause, as it was allocated in one
    return out


@contextmanager
def recording_paused() -> Iterator[None]:
    """Around work whose allocations differ from call to call, or outlive the block. Within another one it does
    nothing."""
    if not recording() or getattr(_this_thread, "pauses", None) is not None:
        yield
        return
    with ExitStack() as _this_thread.pauses:
        try:
            pause_again()
            yield
        finally:
            _this_thread.pauses = None


def pause_again() -> None:
    """After a call of other code within a pause: if that had a pause of its own, its end has resumed the recording."""
    pauses = getattr(_this_thread, "pauses", None)
    if pauses is not None:
        pauses.enter_context(sys.modules[PREFETCH].pause_malloc_graph())
