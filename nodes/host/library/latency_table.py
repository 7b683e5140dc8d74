"""Latency tables of the user's GPU for the search: measured once for each size, and kept in a small JSON file.

The file is not trusted: a damaged one is measured again.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ....plans.plan.versions import installed_versions
from ....plans.plan.writing import alone, write_new
from ....plans.profile.profile import ProfileHeader
from ....plans.search.latency import HEAD_TOKENS, Latencies, LatencyError, measure_latencies
from ..core.fallback import of_error, passes_through

LOG = logging.getLogger("sparse_vdit")
DTYPE = torch.bfloat16
MEASURED_ON = ("cuda",)  # kinds of devices, AMD's among them; elsewhere nobody waits for a measurement

FORMAT, VERSION = "sparse-vdit-latencies", 1
MAX_BYTES, MAX_TABLES, MAX_NUMBER = 1 << 20, 100, 1e7

Tables = dict[str, dict[str, float]]
"""What a table was measured for, in words -> its numbers (`Latencies.numbers`)."""


def latencies(header: ProfileHeader, say: Callable[[str], None], warn: Callable[[str], None]) -> Latencies | None:
    """The table for a profile's heads at about its size, measured where none is kept; None where ComfyUI computes on
    no GPU, and where measuring failed.

    Args:
        say, warn: show the user a line.
    """
    device = comfy.model_management.get_torch_device()
    table = kept_latencies(header)
    if table is not None or device.type not in MEASURED_ON:
        return table
    say("measuring how long attention takes on this GPU; this happens once for each size and takes about 20 s")
    try:
        table = _measure(header, device)
    except Exception as error:
        if passes_through(error):
            raise
        LOG.warning("Sparse-vDiT: times of attention could not be measured", exc_info=True)
        why = str(error) if isinstance(error, LatencyError) else of_error(error)[1]
        warn(f"times of attention could not be measured, FLOPs count instead: {why}")
        return None
    keep_table(tables_file(), table_place(header, device), table.numbers())
    return table


def kept_latencies(header: ProfileHeader) -> Latencies | None:
    """The same table where it was measured before, None where not: for searches while a video is made."""
    device = comfy.model_management.get_torch_device()
    if device.type not in MEASURED_ON:
        return None
    numbers = read_tables(tables_file()).get(table_place(header, device), {})
    return Latencies.from_numbers(numbers, device_name(device))


def _measure(header: ProfileHeader, device: torch.device) -> Latencies:
    bar = comfy.utils.ProgressBar(1)
    tensor = HEAD_TOKENS * header.head_dim * DTYPE.itemsize
    comfy.model_management.free_memory(8 * tensor, device)  # q, k, v, two outputs, and what kernels keep beside them

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return optimized_attention(*(x.transpose(1, 2) for x in (q, k, v)), heads=q.shape[2], skip_reshape=True)

    try:
        return measure_latencies(header, device, DTYPE, dense, device_name(device), bar.update_absolute)
    finally:
        comfy.model_management.soft_empty_cache()


def table_place(header: ProfileHeader, device: torch.device) -> str:
    """What a table is measured for, in words; sizes within a fifth or so share a table."""
    size = round(2 * math.log2(math.prod(header.grid))) / 2
    dtype = str(DTYPE).removeprefix("torch.")
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items() if name != "python")
    return (
        f"{device_name(device)}; heads of {header.head_dim} in {dtype}, tiles of {header.query_tile} x "
        f"{header.key_tile}; about 2^{size:g} tokens; dense by {optimized_attention.__qualname__}; {versions}"
    )


def device_name(device: torch.device) -> str:
    """What a device is called in measurements that are kept."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def tables_file() -> Path:
    """Where tables are kept: a folder of ComfyUI's own that no request over HTTP reaches."""
    return Path(folder_paths.get_system_user_directory("sparse_vdit")) / "latencies.json"


def keep_table(path: Path, place: str, numbers: dict[str, float]) -> None:
    """Add a table to the file; one that cannot be written is only logged."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path):  # another ComfyUI may add one
            tables = read_tables(path)
            tables.pop(place, None)
            newest = dict([*tables.items(), (place, numbers)][-MAX_TABLES:])
            content = {"format": FORMAT, "version": VERSION, "tables": newest}
            write_new(path, json.dumps(content, indent=1).encode(), overwrite=True)
    except OSError as error:
        LOG.warning("Sparse-vDiT: measured times could not be kept in %s: %s", path, error)


def read_tables(path: Path) -> Tables:
    """Tables of a file; none, with a line in the log, where the file is damaged or of another kind."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
        content = json.loads(text) if len(text) <= MAX_BYTES else None
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        LOG.warning("Sparse-vDiT: measured times in %s could not be read: %s", path, error)
        return {}
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        LOG.warning("Sparse-vDiT: %s holds no measured times, they are measured again", path)
        return {}
    tables = content.get("tables")
    return {
        place: {name: float(value) for name, value in numbers.items() if _plausible(value)}
        for place, numbers in (tables.items() if isinstance(tables, dict) else ())
        if isinstance(numbers, dict)
    }


def _plausible(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_NUMBER
