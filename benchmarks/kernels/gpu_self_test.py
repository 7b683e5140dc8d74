"""The self-test of every backend, data type and kind of kernel on one device, as JSON after each.

    python -m benchmarks.kernels.gpu_self_test --file runs/gpu/self_test.json
    python -m benchmarks.kernels.gpu_self_test --file runs/gpu/self_test.json --device cpu  # tries the script
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path


def cases(device: str) -> list[tuple[str, str, int, bool, bool]]:
    """Backend, data type, head_dim, in 8 bits, routed: all of them, on a CPU a few."""
    kinds = itertools.product(("triton", "compiled"), ("bfloat16", "float16"), (128, 64), (False, True), (False, True))
    return [kind for kind in kinds if device != "cpu" or kind[1:] == ("bfloat16", 64, False, False)]


def tested(device: str, name: str, dtype: str, head_dim: int, int8: bool, routed: bool) -> dict:
    """What one self-test gives."""
    import torch
    from sparse_vdit.kernels.attention import BACKENDS
    from sparse_vdit.kernels.self_test import self_test, small_call

    kind = torch.device(device), getattr(torch, dtype), head_dim, int8, routed
    begin = time.perf_counter()
    with machine_as_card() if (device, name) == ("cpu", "compiled") else nullcontext():
        refusal = BACKENDS[name].refusal(small_call(*kind))
        reason = self_test(BACKENDS[name], *kind) if refusal is None else None
    return {"refusal": refusal, "reason": reason, "seconds": round(time.perf_counter() - begin, 2)}


def machine_as_card() -> AbstractContextManager:
    """On a CPU the shipped kernels run on the machine of the tests, which executes their PTX."""
    from ptx.card import plugged

    return plugged((8, 9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    rows = []
    for case in cases(args.device):
        row = dict(zip(("backend", "dtype", "head_dim", "int8", "routed"), case, strict=True))
        try:
            row |= tested(args.device, *case)
        except Exception as error:  # the row says what; the other kinds are tested all the same
            row |= {"reason": f"{type(error).__name__}: {error}".split("\n")[0][:200]}
        print(*case, row["reason"] or row.get("refusal") or "passed", flush=True)
        rows.append(row)
        args.file.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
