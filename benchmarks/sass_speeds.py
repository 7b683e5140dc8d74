"""Predicts the speed of every shipped attention kernel from its machine code, and the calibration of these predictions.

    python benchmarks/sass_speeds.py                                         all; writes a result file, some minutes
    python benchmarks/sass_speeds.py --only sm_89/attention-bf16-128         names that start so; writes nothing

It measures nothing and needs no GPU, but Triton, whose wheel brings NVIDIA's assembler. Rows of the result file by
their `table`: `calibration` (one published speed) and `shipped` (one kernel on one card). A test compares the counts of
the newest result file with what ships, so whoever changes kernels runs this again, then `tables.py`.
"""

from __future__ import annotations

import argparse
import os

os.environ.pop("TRITON_INTERPRET", None)  # the calibration kernels are compiled

import results
import sass_calibration
from sass_cards import CARDS, SHIPPED_CARDS
from sass_model import Compiled, predict
from sass_parsing import assemble
from sass_tables import calibration_lines, shipped_lines
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="START", help="kernels whose names start so, and no calibration")
    args = parser.parse_args()
    names = attention_files(args.only or "")
    if not names:
        parser.error(f"no shipped attention kernel's name starts with {args.only}, as {attention_files()[0]} does")
    rows = [shipped_row(name) for name in names]
    if args.only:
        print(*shipped_lines(rows), sep="\n")
        return
    rows = [*sass_calibration.rows(), *rows]
    print(*calibration_lines(rows), "", *shipped_lines(rows), sep="\n")
    print("Written to", results.save_results("sass_speeds", rows))


if __name__ == "__main__":
    main()
