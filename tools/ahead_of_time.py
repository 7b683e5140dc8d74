"""Compiles the kernels for any GPU, without one: for the binaries that ship with the pack, and for the tests.

Needs Triton, with TRITON_INTERPRET unset; nothing at a user's imports this.
"""

from __future__ import annotations

from sparse_vdit.kernels.backends.launcher import SELECT_BLOCK
from sparse_vdit.kernels.backends.triton_kernels.pack_tiles import pack_tiles_kernel
from sparse_vdit.kernels.backends.triton_kernels.quantize_tiles import quantize_tiles_kernel
from sparse_vdit.kernels.backends.triton_kernels.select_tiles import select_tiles_kernel
from sparse_vdit.kernels.backends.triton_kernels.sparse import block_sparse_fwd_kernel
from sparse_vdit.kernels.backends.triton_kernels.tile_means import tile_means_kernel
from sparse_vdit.kernels.configs import AMD_ARCHS, KernelConfig, kernel_config
from sparse_vdit.kernels.tiling import KEY_TILE, QUERY_TILE
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, compile

_TABLES = {
    "SLOTS": "*i32", "STARTS": "*i32", "KV_NUM_BLOCKS": "*i32", "KV_INDICES": "*i16", "ORDERS": "*i32", "INDEX": "*i32",
}  # fmt: skip
_FLOATS = ("KEY_BIAS", "K_SCALE", "V_LARGEST", "K_MEAN", "SCORES", "qk_scale")
_UNALIGNED = ("KEY_BIAS",)  # starts anywhere in a larger tensor

# the lowest version of PTX in which the kernels can be written, so that old drivers take them too
PTX_ISA = {"sm_80": 74, "sm_86": 74, "sm_89": 78, "sm_90": 80, "sm_100": 86, "sm_120": 87}


def attention_kernel(
    arch: str, dtype: str, head_dim: int, int8: bool, config: KernelConfig | None = None
) -> CompiledKernel:
    """The attention kernel for an architecture, dtype (`bf16`, `fp16`) and head_dim, as the launcher calls it.

    Args:
        config: instead of the architecture's own; it does not ship, and is not held to what old drivers take.
    """
    own = kernel_config(arch, head_dim, int8)
    config = config or own
    constants = {
        "HEAD_DIM": head_dim, "QUERY_TILE": QUERY_TILE, "KEY_TILE": KEY_TILE, "ROWS": config.rows,
        "STAGES": config.stages, "INT8": int8, "FP16_SUMS": config.fp16_sums,
        "OFFSET_SUMS": config.offset_sums, "UPCAST": False, "PACKED": config.packed, "SEGMENT": config.segment,
    }  # fmt: skip
    ships = config == own
    limits = {"num_stages": config.stages, "maxnreg": config.registers}
    return _compile(block_sparse_fwd_kernel, arch, dtype, constants, config.warps, limits, ships)


QUANTIZED = {  # what each of these helpers writes
    "quantize_keys": {"KEYS": True, "VALUES": False},
    "quantize_values": {"KEYS": False, "VALUES": True},
    "quantize_both": {"KEYS": True, "VALUES": True},
}
HELPERS = (*QUANTIZED, f"tile_means_{KEY_TILE}", f"tile_means_{QUERY_TILE}")
"""The kernels that prepare attention and that ship for every dtype and head_dim; `select_tiles` ships once."""


def helper_kernel(name: str, arch: str, dtype: str, head_dim: int) -> CompiledKernel:
    """One of HELPERS, `select_tiles`, or `pack_tiles`, which does not ship."""
    if name == "select_tiles":
        return _compile(select_tiles_kernel, arch, dtype, {"BLOCK": SELECT_BLOCK}, warps=4)
    if name.startswith("tile_means_"):
        tile = int(name.removeprefix("tile_means_"))
        return _compile(tile_means_kernel, arch, dtype, {"HEAD_DIM": head_dim, "TILE": tile}, warps=4)
    constants = {"HEAD_DIM": head_dim, "KEY_TILE": KEY_TILE}
    if name == "pack_tiles":
        return _compile(pack_tiles_kernel, arch, dtype, constants, warps=4)
    return _compile(quantize_tiles_kernel, arch, dtype, constants | QUANTIZED[name], warps=4)


def _compile(
    kernel: object, arch: str, dtype: str, constants: dict, warps: int, limits: dict | None = None, ships: bool = True
) -> CompiledKernel:
    names = kernel.arg_names
    types = {name: f"*{dtype}" if name.isupper() else "i32" for name in names} | _TABLES
    types |= {name: "fp32" if name.islower() else "*fp32" for name in _FLOATS}
    types |= _tile_types(kernel, dtype, constants)
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    # what the launcher guarantees, and what Triton would find out by itself: without it loads are narrow
    aligned = [n for n in names if n.startswith("stride_") or (signature[n].startswith("*") and n not in _UNALIGNED)]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": warps} | {name: value for name, value in (limits or {}).items() if value is not None}
    if ships and arch in PTX_ISA:
        options["ptx_version"] = PTX_ISA[arch]
    return compile(source, target=_target(arch), options=options)


def _tile_types(kernel: object, dtype: str, constants: dict) -> dict[str, str]:
    """Types of the copies in tile order, and of what stands for them where there are none (`tile_copies.py`)."""
    if kernel is quantize_tiles_kernel:
        return {
            "K_TILES": "*i8" if constants["KEYS"] else "*fp32", "V_TILES": "*fp16" if constants["VALUES"] else "*fp32"
        }  # fmt: skip
    if kernel is tile_means_kernel:
        return {"OUT": "*fp32"}
    if constants.get("PACKED"):
        block = f"tensordesc<{dtype}[{constants['KEY_TILE']}, {constants['HEAD_DIM']}]>"
        return {"K_TILES": block, "V_TILES": block}
    int8, fp16 = constants.get("INT8"), constants.get("FP16_SUMS")
    return {"K_TILES": "*i8" if int8 else f"*{dtype}", "V_TILES": "*fp16" if fp16 else f"*{dtype}"}


def _target(arch: str) -> GPUTarget:
    if arch in AMD_ARCHS:
        return GPUTarget("hip", arch, 64 if arch.startswith("gfx9") else 32)
    return GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
