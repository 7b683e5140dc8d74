"""The kernels without Triton: shipped PTX, loaded through the NVIDIA driver.

For machines without Triton, Python headers or a C compiler. Everything but the launch itself is `triton_backend`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..call import AttentionCall
from ..configs import kernel_config
from ..routing import Routing
from . import shipped
from .cuda_driver import Function, open_driver
from .launcher import Launch
from .triton_backend import LARGEST, launched_choice, run, unsuited


def refusal(call: AttentionCall) -> str | None:
    """Why this backend cannot run a call, in words; None when it can. The first call on a card loads its kernels."""
    reason = _no_card(call.q.device)
    if reason is not None:
        return reason
    arch = shipped.arch_of(_capability(call.q.device))
    reason = unsuited(call, arch) or _beyond(call)
    if reason is not None:
        return reason
    dtype = shipped.DTYPE_NAMES[call.q.dtype]
    failures = (_load(call.q.device.index, name) for name in files_of(call, arch, dtype))
    return next((failure for failure in failures if isinstance(failure, str)), None)


def needs_self_test(device: torch.device) -> bool:
    """Always, since the driver compiles the kernels for the card that it finds."""
    return True


def files_of(call: AttentionCall, arch: str, dtype: str) -> list[str]:
    """Names of the files that a call runs."""
    head_dim = call.q.shape[-1]
    wanted = [("attention", {"INT8": call.int8})]
    fp16_sums = kernel_config(arch, head_dim, call.int8).fp16_sums
    if call.int8 or fp16_sums:
        wanted.append(("quantize_tiles", {"KEYS": call.int8, "VALUES": fp16_sums}))
    if not call.lists.routed.keys().isdisjoint(call.head_lists):
        tiles = (call.lists.query_tile, call.lists.key_tile)
        wanted += [*(("tile_means", {"TILE": tile}) for tile in tiles), ("select_tiles", {})]
    return [shipped.file_name(arch, kernel, dtype, {"HEAD_DIM": head_dim, **constants}) for kernel, constants in wanted]


def attention(call: AttentionCall) -> Tensor:
    """Output (B, S, H, D), contiguous, of a call that `refusal` has nothing against."""
    return run(call, shipped.arch_of(_capability(call.q.device)), through_driver)


def choose(call: AttentionCall, routing: Routing, kv_indices: Tensor) -> None:
    """Choose the tiles of routed heads, see `routing.Choose`."""
    launched_choice(call, routing, kv_indices, through_driver)


def through_driver(launch: Launch) -> None:
    """Run a launch from the shipped files.

    Raises:
        RuntimeError: there is no such file, it was changed, or it was not made for these values.
    """
    first = launch.arguments[0]
    arch, dtype = shipped.arch_of(_capability(first.device)), shipped.DTYPE_NAMES.get(first.dtype, "")
    name = shipped.file_name(arch, launch.kernel, dtype, launch.constants)
    loaded = _load(first.device.index, name)
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    binary, function = loaded
    binary.check(launch)
    arguments = binary.pack(launch.arguments)
    open_driver().launch(function, launch.grid, binary.threads, binary.shared, _stream(first.device), arguments)


_loaded: dict[tuple[int, str], tuple[shipped.Binary, Function] | str] = {}


def _load(device: int, name: str) -> tuple[shipped.Binary, Function] | str:
    """A kernel on a device, or why not: a failure is kept too, as every layer would repeat it.

    Raises:
        torch.OutOfMemoryError: twice, the second time with torch's free memory given back; it is not kept.
    """
    if (device, name) not in _loaded:
        try:
            found = _load_now(device, name)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()  # the driver has no part in what torch holds in reserve
            found = _load_now(device, name)
        _loaded[device, name] = found
    return _loaded[device, name]


def _load_now(device: int, name: str) -> tuple[shipped.Binary, Function] | str:
    try:
        binary = shipped.binary(name)
        return binary, open_driver().load(device, shipped.read_ptx(name), binary.entry, binary.shared)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return str(error)


def _no_card(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"device {device.type} is not an NVIDIA GPU"
    if torch.version.hip is not None:
        return "shipped kernels are for NVIDIA, AMD needs Triton"
    arch = shipped.arch_of(_capability(device))
    if arch is None:
        return f"there are no shipped kernels for {torch.cuda.get_device_name(device)}: RTX 30 or A100 and newer"
    try:
        needed, found = shipped.cuda_needed(arch), open_driver().version()
    except RuntimeError as error:
        return str(error)
    if found < needed:
        own, wanted = (".".join(map(str, version)) for version in (found, needed))
        return f"the NVIDIA driver is for CUDA {own}, shipped kernels need {wanted}: update the driver"
    return None


def _beyond(call: AttentionCall) -> str | None:
    if call.lists.kv_indices.dtype != torch.int16:
        return "the video has over 32,767 key tiles, shipped kernels count them in 16 bits: install Triton"
    if call.q.shape[1:].numel() >= LARGEST:
        return f"q has {call.q.shape[1:].numel()} elements in a batch, shipped kernels count in 32 bits: install Triton"
    return None


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream
