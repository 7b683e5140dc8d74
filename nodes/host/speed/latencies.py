"""Latency tables of the user's GPU for the search: measured once, kept beside the speeds of runs."""

from __future__ import annotations

import logging
import math

import comfy.model_management
import comfy.utils
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ....plans.plan.versions import installed_versions
from ....plans.profile.profile import ProfileHeader
from ....plans.search.latency import HEAD_TOKENS, Latencies, LatencyError, measure_latencies
from ..reports.report import say, speeds_file, warn
from ..runs.failures import failure_text, passes_through
from .race import backend_name, device_name, facts
from .speeds import keep_speeds, known_speeds

LOG = logging.getLogger("sparse_vdit")
DTYPE = torch.bfloat16
MEASURED_ON = ("cuda",)  # kinds of devices, AMD's among them; elsewhere nobody waits for a measurement


def latencies(header: ProfileHeader, node_id: str | None) -> Latencies | None:
    """The table for a profile's heads at about its size, measured where none is kept; None where ComfyUI computes on
    no GPU, and where measuring failed, which the user is told."""
    device = comfy.model_management.get_torch_device()
    table = kept_latencies(header)
    if table is not None or device.type not in MEASURED_ON:
        return table
    place, path, name = table_place(header, device), speeds_file(), device_name(device)
    say("measuring how long attention takes on this GPU; this happens once for each size and takes about 20 s", node_id)
    try:
        table = _measure(header, device, name)
    except Exception as error:
        if passes_through(error):
            raise
        LOG.warning("Sparse-vDiT: times of attention could not be measured", exc_info=True)
        why = str(error) if isinstance(error, LatencyError) else failure_text(error)[1]
        warn(f"times of attention could not be measured, FLOPs count instead: {why}", node_id)
        return None
    keep_speeds(path, place, table.numbers())
    return table


def kept_latencies(header: ProfileHeader) -> Latencies | None:
    """The same table where it was measured before, None where not: for searches while a video is made."""
    device = comfy.model_management.get_torch_device()
    if device.type not in MEASURED_ON:
        return None
    return Latencies.from_numbers(known_speeds(speeds_file()).get(table_place(header, device), {}), device_name(device))


def _measure(header: ProfileHeader, device: torch.device, name: str) -> Latencies:
    bar = comfy.utils.ProgressBar(1)
    tensor = HEAD_TOKENS * header.head_dim * DTYPE.itemsize
    comfy.model_management.free_memory(8 * tensor, device)  # q, k, v, two outputs, and what kernels keep beside them

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return optimized_attention(*(x.transpose(1, 2) for x in (q, k, v)), heads=q.shape[2], skip_reshape=True)

    try:
        return measure_latencies(header, device, DTYPE, dense, name, bar.update_absolute)
    finally:
        comfy.model_management.soft_empty_cache()


def table_place(header: ProfileHeader, device: torch.device) -> str:
    """Name of all that a table hangs on; sizes within a fifth or so share one."""
    size = round(2 * math.log2(math.prod(header.grid))) / 2
    dtype = str(DTYPE).removeprefix("torch.")
    what = {
        "heads of": f"{header.head_dim} in {dtype}, tiles of {header.query_tile} x {header.key_tile}",
        "tokens": f"about 2^{size:g}",
        "dense": backend_name(optimized_attention, None),
        **{name: version for name, version in installed_versions().items() if name != "python"},
    }
    return "; ".join(("times by density", device_name(device), *facts(what)))
