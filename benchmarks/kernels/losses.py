"""Where the time of our attention goes: its kernels, how far it is from the device's limits, and what it loses to what.

The ideal of a sparse call is the best dense attention's time on the same data times the density. What it takes beyond
that is told apart by measuring the same call without one thing at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from sparse_vdit.kernels.lists import TileLists

from benchmarks.kernels.kernel_cases import Case
from benchmarks.kernels.kernel_methods import METHODS, Method
from benchmarks.kernels.timing import median_ms
from tools.schedule import imbalance

SHOWN = 8  # kernels of a call, those that take longest
ISSUED = 5  # calls of which the fastest to issue counts
SIDE = {"cuda": 8192, "cpu": 512}  # of the matrices that a device's limits are measured with

Run = Callable[[], object]


def limits(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of a large matrix product, and bytes/s of a copy, read and written."""
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    flops = 2 * side**3 / median_ms(lambda: a @ b, device) * 1e3
    return flops, 2 * a.nbytes / median_ms(lambda: b.copy_(a), device) * 1e3


def kernel_times(run: Run, device: torch.device) -> dict[str, float]:
    """Milliseconds of each kernel of a call, on a CPU of each operator, the longest first; the rest as `others`."""
    activity = torch.profiler.ProfilerActivity
    wanted = [activity.CPU] + [activity.CUDA] * (device.type == "cuda")
    with torch.profiler.profile(activities=wanted) as profile:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
    name = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    # operators are told the time of their kernels too, which would count twice
    where = torch.autograd.DeviceType.CUDA if device.type == "cuda" else torch.autograd.DeviceType.CPU
    events = [event for event in profile.key_averages() if event.device_type == where]
    found = {event.key: getattr(event, name) / 1e3 for event in events}
    ranked = sorted(((ms, key) for key, ms in found.items() if ms > 0), reverse=True)
    shown = {key: round(ms, 4) for ms, key in ranked[:SHOWN]}
    rest = sum(ms for ms, _ in ranked[SHOWN:])
    return shown | ({"others": round(rest, 4)} if rest else {})


def host_microseconds(run: Run, device: torch.device) -> float | None:
    """Time in which a call is handed to the device; None on a CPU, which computes it itself."""
    if device.type != "cuda":
        return None
    found = []
    for _ in range(ISSUED):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        found.append((time.perf_counter() - begin) * 1e6)
    torch.cuda.synchronize()
    return round(min(found), 1)


def in_sequence(lists: TileLists) -> TileLists:
    """The same lists over tokens as they lie in memory: as much work, read without an order."""
    device = lists.index.device
    plain = torch.arange(lists.grid.tokens, dtype=lists.index.dtype).expand_as(lists.index).contiguous()
    return replace(lists.to("cpu"), index=plain).to(device)


def losses(
    case: Case, method: Method, ms: float, dense: dict[str, float], workers: int | None, in_kernels: float
) -> dict[str, float]:
    """Milliseconds that a call takes beyond its ideal, by what they go to; what is left over is `short rows and lists`.

    Args:
        ms: of the call.
        dense: milliseconds of the `best` dense attention and of `own`, our kernel with all tiles.
        workers: programs that run at a time, None where that is not known.
        in_kernels: milliseconds that the device spends in the call's kernels.
    """
    device, numbers = case.q.device, case.numbers(method.truth)
    density = case.density(method.truth)
    found = {"kernel against the best dense one": (dense["own"] - dense["best"]) * density}
    run, _ = method.make(replace(case, lists=in_sequence(case.lists)))
    found["token order"] = ms - median_ms(run, device)
    if workers:
        found["imbalance"] = ms * (1 - 1 / imbalance(case.lists, numbers, workers))
    if method.prepare is not None:
        found["quantizing or choosing"] = median_ms(method.prepare(case), device)
    if device.type == "cuda":
        found["launches and host"] = max(0.0, ms - in_kernels)
    found["short rows and lists"] = ms - dense["best"] * density - sum(found.values())
    return {name: round(value, 4) for name, value in found.items()}


def profile_row(case: Case, name: str, dense: dict[str, float], peak: tuple[float, float]) -> dict:
    """All that is known of the time of one method on one case.

    Args:
        peak: `limits` of the device.
    """
    method, device = METHODS[name], case.q.device
    run, _ = method.make(case)
    ms, density = median_ms(run, device), case.density(method.truth)
    flops = 4 * case.q.shape[1] ** 2 * case.q.shape[2] * case.q.shape[3] * density
    moved = 4 * case.q.nbytes + case.lists.bytes
    least = 1e3 * max(flops / peak[0], moved / peak[1])
    workers = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else None
    kernels = kernel_times(run, device)
    lost = losses(case, method, ms, dense, workers, sum(kernels.values()))
    return {
        "method": name, "density": round(density, 4), "ms": round(ms, 4), "ideal_ms": round(dense["best"] * density, 4),
        "kernels": kernels, "host_us": host_microseconds(run, device),
        "flops": flops, "bytes": moved, "bound": "products" if flops / peak[0] > moved / peak[1] else "memory",
        "fraction_of_roofline": round(least / ms, 4), "losses": lost,
        "largest": [name for name in sorted(lost, key=lost.get, reverse=True)[:3] if lost[name] > 0],
    }  # fmt: skip


def dense_times(case: Case, best: tuple[str, ...], own: str) -> dict[str, float]:
    """Milliseconds of the fastest of the dense methods that run here, and of our own kernel with all tiles.

    Raises:
        RuntimeError: none of the dense methods runs; names the reasons.
    """
    found, failed = [], []
    for name in best:
        try:
            found.append(median_ms(METHODS[name].make(case)[0], case.q.device))
        except Exception as error:  # other people's packages raise anything
            failed.append(f"{name}: {error}".split("\n")[0])
    if not found:
        raise RuntimeError(f"no dense attention runs here: {'; '.join(failed)}")
    everything = replace(case, head_lists=(case.dense,) * case.q.shape[2], routed=case.dense)
    return {"best": min(found), "own": median_ms(METHODS[own].make(everything)[0], case.q.device)}
