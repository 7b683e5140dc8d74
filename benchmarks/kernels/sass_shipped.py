"""The shipped attention kernels, assembled, counted and predicted by the speed model."""

from __future__ import annotations

from sparse_vdit.kernels.backends import shipped

from benchmarks.kernels.sass_cards import CARDS, SHIPPED_CARDS
from benchmarks.kernels.sass_model import Compiled, predict
from benchmarks.kernels.sass_parsing import assemble
from benchmarks.kernels.sass_units import Tile


def attention_files(start: str = "") -> list[str]:
    """Names of the shipped attention kernels that start so, older architectures first."""
    names = sorted(name for name in shipped.manifest()["files"] if "/attention-" in name and name.startswith(start))
    return sorted(names, key=lambda name: list(SHIPPED_CARDS).index(name.split("/")[0]))


def compiled(name: str) -> Compiled:
    """Machine code of a shipped kernel."""
    binary, arch = shipped.binary(name), name.split("/")[0]
    return Compiled(assemble(shipped.read_ptx(name), arch), _tile(binary.constants), binary.warps, binary.shared)


def compiled_from_source(name: str) -> Compiled:
    """Machine code of what the Triton sources would now ship under a name. Needs TRITON_INTERPRET unset."""
    from tools.ahead_of_time import attention_kernel

    arch, (_, dtype, head_dim, *options) = name.split("/")[0], name.split("/")[1].split("-")
    made = attention_kernel(arch, dtype, int(head_dim), "int8" in options)
    constants = {made.src.fn.arg_names[place]: value for (place,), value in made.src.constants.items()}
    return Compiled(made.asm["cubin"], _tile(constants), made.metadata.num_warps, made.metadata.shared)


def _tile(constants: dict[str, int | bool | str]) -> Tile:
    return Tile(*(constants[constant] for constant in ("ROWS", "KEY_TILE", "HEAD_DIM")))


def shipped_row(name: str, kernel: Compiled) -> dict:
    """What is counted in a kernel and predicted of it, on the card of its architecture."""
    arch = name.split("/")[0]
    card = CARDS[SHIPPED_CARDS[arch]]
    found = predict(kernel, card)
    row = {
        "table": "shipped", "file": name, "card": card.name, "arch": arch, "dtype": name.split("-")[1],
        "head_dim": kernel.tile.head_dim, "int8": shipped.binary(name).constants["INT8"],
        "predicted": round(found.tflops, 1), "limit": found.limit, "at_limit": round(found.limit_tflops, 1),
        "products_busy": round(found.products_busy, 3), "cycles": round(found.cycles), "programs": found.programs,
        "warps": kernel.warps, "shared": kernel.shared, **vars(found.counts),
        "units": {unit: round(taken) for unit, taken in found.units.items()},
    }  # fmt: skip
    print({key: row[key] for key in ("file", "card", "predicted", "instructions", "registers")}, flush=True)
    return row
