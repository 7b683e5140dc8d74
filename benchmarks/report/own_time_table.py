"""The table of `profile_own_time.py` for `tables.py`: the newest result beside the one before it."""

from __future__ import annotations

from benchmarks.report.result_files import NOT_YET, made_by

HEADS = (
    "shape", "method", "density", "ms", "before", "ideal, ms", "of the limit", "host, us", "largest losses, ms",
)  # fmt: skip


def own_time_table(found: list[dict]) -> str:
    """Rows of the newest of results, the older first, with the times of the one before it on the same device."""
    if not found:
        return NOT_YET
    latest = found[-1]
    before = [result for result in found[:-1] if result["device"] == latest["device"]][-1:]
    known = {key_of(row): row["ms"] for result in before for row in result["rows"] if "ms" in row}
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    lines += [f"| {' | '.join(cells(row, known))} |" for row in latest["rows"] if "ms" in row]
    told = f" Before: commit {before[0]['commit'][:10]}." if before else ""
    limit = "The limit: products in the model's precision or copies, as measured on the same card."
    return "\n".join([*lines, "", f"{limit} Commit {latest['commit'][:10]}.{told} {made_by(latest)}"])


def cells(row: dict, known: dict[tuple, float]) -> list[str]:
    """One line; `known` are the milliseconds before."""
    earlier, host = known.get(key_of(row)), row["host_us"]
    lost = ", ".join(f"{name} {row['losses'][name]:.2f}" for name in row["largest"])
    return [
        row["shape"], row["method"], f"{row['density']:.2f}", f"{row['ms']:.2f}",
        "-" if earlier is None else f"{earlier:.2f}", f"{row['ideal_ms']:.2f}", f"{row['fraction_of_roofline']:.0%}",
        "-" if host is None else f"{host:.0f}", lost,
    ]  # fmt: skip


def key_of(row: dict) -> tuple[str, str, float]:
    """What a row is about."""
    return row["shape"], row["method"], row["asked_density"]
