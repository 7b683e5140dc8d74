"""The shipped attention kernels, assembled, counted and predicted by the speed model."""

from __future__ import annotations

import sys

from result_files import ROOT

sys.path.insert(0, str(ROOT / "tests"))

import load_pack  # noqa: F401
from sass_cards import CARDS, SHIPPED_CARDS
from sass_model import Compiled, predict
from sass_parsing import assemble
from sass_units import Tile
from sparse_vdit.kernels.backends import shipped


def attention_files(start: str = "") -> list[str]:
    """Names of the shipped attention kernels that start so, older architectures first."""
    names = sorted(name for name in shipped.manifest()["files"] if "/attention-" in name and name.startswith(start))
    return sorted(names, key=lambda name: list(SHIPPED_CARDS).index(name.split("/")[0]))


def compiled(name: str) -> Compiled:
    """Machine code of a shipped kernel."""
    binary, arch = shipped.binary(name), name.split("/")[0]
    tile = Tile(*(binary.constants[constant] for constant in ("ROWS", "KEY_TILE", "HEAD_DIM")))
    return Compiled(assemble(shipped.read_ptx(name), arch), tile, binary.warps, binary.shared)


def shipped_row(name: str) -> dict:
    """What is counted in a shipped kernel and predicted of it, on the card of its architecture."""
    kernel, arch = compiled(name), name.split("/")[0]
    card = CARDS[SHIPPED_CARDS[arch]]
    found = predict(kernel, card)
    row = {
        "table": "shipped", "file": name, "card": card.name, "arch": arch, "dtype": name.split("-")[1],
        "head_dim": kernel.tile.head_dim, "int8": shipped.binary(name).constants["INT8"],
        "predicted": round(found.tflops, 1), "limit": found.limit, "at_limit": round(found.limit_tflops, 1),
        "products_busy": round(found.products_busy, 3), "cycles": round(found.cycles), "programs": found.programs,
        "warps": kernel.warps, "shared": kernel.shared, **vars(found.counts),
    }  # fmt: skip
    print({key: row[key] for key in ("file", "card", "predicted", "instructions", "registers")}, flush=True)
    return row
