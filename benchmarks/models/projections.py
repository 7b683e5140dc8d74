"""What measured forwards say of whole generations: shares, speed-ups, and the time of 50 and of 4 steps.

A projection is a sum of measured forwards: text encoder, VAE and the sampler's own work are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.models.whole_methods import METHODS, NO_ATTENTION
from benchmarks.models.whole_models import WholeModel

MANY, FEW = 50, 4
FEW_WARMUP = 1  # of the FEW steps, which distilled models take without a negative prompt

Row = dict
Key = tuple[str, str, str | None]


def key(row: Row) -> Key:
    """What a row is about: model, method, plan."""
    return row["model"], row["method"], row.get("plan")


def measured(rows: Sequence[Row], kind: Callable[[object], bool] = lambda method: True) -> list[Row]:
    """Rows with a timed forward, of methods of one kind."""
    return [row for row in rows if row.get("seconds_per_forward") and kind(METHODS[row["method"]])]


def fastest(rows: Sequence[Row], kind: Callable[[object], bool]) -> Row | None:
    """The fastest of the rows of methods of one kind that are not compiled."""
    found = measured(rows, lambda method: kind(method) and not method.only_compiled)
    return min(found, key=lambda row: row["seconds_per_forward"], default=None)


def compare(rows: Sequence[Row], models: dict[str, WholeModel]) -> None:
    """Fill in what follows from the rows of the same model: see `compare_model`."""
    for name in {row["model"] for row in rows}:
        compare_model([row for row in rows if row["model"] == name], models[name])


def compare_model(rows: Sequence[Row], model: WholeModel) -> None:
    """Fill in attention's share of a forward, the speed-up against the best dense attention of the same rows, its
    extra peak memory as a part of that one's, and projected generations, as seconds and against that one's.

    `many` is 50 steps, the first part of them on the best dense attention of the model's precision: the warm-up of the
    model, or more where the plan begins later; `many_8_bits` the same on the best in 8 bits; `few` is 4 steps, the
    first of them dense, or more where the plan begins later.
    """
    dense = fastest(rows, lambda method: method.dense)
    in_8_bits = fastest(rows, lambda method: method.eight_bits)
    rest = next((row for row in measured(rows) if row["method"] == NO_ATTENTION), None)
    for row in measured(rows):
        seconds = row["seconds_per_forward"]
        if rest is not None and row is not rest:
            row["attention_share"] = round(max(0.0, 1 - rest["seconds_per_forward"] / seconds), 4)
        if dense is None or row is rest:
            continue
        best = dense["seconds_per_forward"]
        warmup = round(max(model.warmup, row.get("dense_part", 0.0)) * MANY)
        row["speedup"] = round(best / seconds, 4)
        if row.get("peak_bytes") and dense.get("peak_bytes"):
            row["extra_peak_fraction"] = round(row["peak_bytes"] / dense["peak_bytes"] - 1, 4)
        firsts = {"many": dense, "many_8_bits": in_8_bits}
        for name, first in firsts.items():
            if first is not None:
                known = METHODS[row["method"]]
                early = seconds if known.dense or known.eight_bits else first["seconds_per_forward"]
                total = warmup * early + (MANY - warmup) * seconds
                row[f"{name}_seconds"] = round(model.forwards * total, 3)
                row[f"{name}_speedup"] = round(MANY * best / total, 4)
        early = seconds if METHODS[row["method"]].dense else best
        warmup = max(FEW_WARMUP, round(row.get("dense_part_few", 0.0) * FEW))
        total = warmup * early + (FEW - warmup) * seconds
        row["few_seconds"], row["few_speedup"] = round(total, 3), round(FEW * best / total, 4)
