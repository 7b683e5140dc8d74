"""Predicts the speed of every shipped attention kernel from its machine code, and the calibration of these predictions.

    python -m benchmarks.kernels.sass_speeds                             all, and the calibration; writes a result file,
                                                                         minutes
    python -m benchmarks.kernels.sass_speeds --only sm_89/attention-bf16 names that start so; writes nothing
    python -m benchmarks.kernels.sass_speeds --sources [--only START]    what the Triton sources compile to now; writes
                                                                         nothing

It measures nothing and needs no GPU, but Triton, whose wheel brings NVIDIA's assembler. Rows of the result file by
their `table`: `calibration` (one published speed) and `shipped` (one kernel on one card). A test compares the counts of
the newest result file with what ships, so whoever changes kernels runs this again, then `tables.py`.
"""

from __future__ import annotations

import argparse
import os

os.environ.pop("TRITON_INTERPRET", None)  # the calibration kernels are compiled

from benchmarks.kernels import sass_calibration
from benchmarks.kernels.sass_shipped import attention_files, compiled, compiled_from_source, shipped_row
from benchmarks.kernels.sass_tables import PREDICTED, accuracy, calibration_lines, shipped_lines
from benchmarks.report import results
from benchmarks.report.result_files import newest_if_any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="START", help="kernels whose names start so, and no calibration")
    parser.add_argument("--sources", action="store_true", help="compile the kernels anew, and no calibration")
    args = parser.parse_args()
    names = attention_files(args.only or "")
    if not names:
        parser.error(f"no shipped attention kernel's name starts with {args.only}, as {attention_files()[0]} does")
    rows = [shipped_row(name, (compiled_from_source if args.sources else compiled)(name)) for name in names]
    if args.only or args.sources:
        known = newest_if_any("sass_speeds")
        print(*shipped_lines(rows), "", PREDICTED, accuracy(known["rows"]) if known else "", sep="\n")
        return
    rows = [*sass_calibration.rows(), *rows]
    print(*calibration_lines(rows), "", *shipped_lines(rows), "", PREDICTED, sep="\n")
    print("Written to", results.save_results("sass_speeds", rows))


if __name__ == "__main__":
    main()
