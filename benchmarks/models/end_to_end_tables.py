"""Tables of `end_to_end.py` for `tables.py`: a line for each timed forward, and what the pack says of its own runs."""

from __future__ import annotations

from benchmarks.models.whole_models import TINY
from benchmarks.report.result_files import NOT_YET, made_by

TOYS = "**Toy models, a trial of the script: these times mean nothing.**"
HEADS = (
    "model", "attention", "plan", "density", "one forward, s", "of it attention", "speed-up", "50 steps, s",
    "the same, warm-up in 8 bits", "4 steps, s", "more memory", "to dense", "first call, s",
)  # fmt: skip


def forwards_table(result: dict | None) -> str:
    """All timed forwards of a result, and what they say of whole generations."""
    if result is None:
        return NOT_YET
    timed = [row for row in result["rows"] if row.get("seconds_per_forward")]
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in timed]
    missing: dict[tuple[str, str], dict[str, None]] = {}
    for row in result["rows"]:
        if "skipped" in row:
            missing.setdefault((row["method"], row["skipped"]), {})[row["model"]] = None
    told = "; ".join(f"{name} ({', '.join(models)}): {why}" for (name, why), models in missing.items())
    notes = "; ".join(dict.fromkeys(f"{row['method']}: {row['note']}" for row in timed if row.get("note")))
    note = (
        "Speed-up: against the best dense attention in the model's precision. 50 steps: sums of measured forwards, the "
        "first 20 % of the steps dense (CogVideoX: none); 4 steps: the first dense, no negative prompt. Weights are "
        "random: the distance to dense attention's output says that a method computes what it should, nothing of "
        "quality. Memory: peak against that dense attention's."
    )
    lines += ["", note] + ([f"Not measured: {told}."] if told else []) + ([f"{notes}."] if notes else [])
    lines += [made_by(result)]
    return with_warning(result, lines)


def with_warning(result: dict, lines: list[str]) -> str:
    """Lines as a text, under a warning where toys are among the models."""
    toys = any(row["model"] in TINY for row in result["rows"])
    return "\n".join([TOYS, "", *lines] if toys else lines)


def cells(row: dict) -> list[str]:
    """One line of the table of forwards."""

    def shown(name: str, form: str) -> str:
        return "-" if row.get(name) is None else format(row[name], form)

    many = f"{shown('many_seconds', '.0f')} ({shown('many_speedup', '.2f')}x)"
    few = f"{shown('few_seconds', '.1f')} ({shown('few_speedup', '.2f')}x)"
    return [
        row["model"], row["method"], row.get("plan") or "", shown("density", ".2f"),
        shown("seconds_per_forward", ".3f"), shown("attention_share", ".0%"), shown("speedup", ".2f"), many,
        shown("many_8_bits_speedup", ".2f"), few, shown("extra_peak_fraction", "+.1%"), shown("rel_l2", ".1e"),
        shown("first_call_seconds", ".1f"),
    ]  # fmt: skip


def sampler_table(result: dict | None) -> str:
    """Whole sampler runs."""
    if result is None:
        return NOT_YET
    lines = ["| model | steps | seconds | what the pack says |", "|---|---|---|---|"]
    for row in result["rows"]:
        if "sampler_seconds" in row:
            lines.append(f"| {row['model']} | {row['steps']} | {row['sampler_seconds']:.1f} | {row['report']} |")
    return with_warning(result, [*lines, "", made_by(result)])
