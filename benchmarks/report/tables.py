"""Writes the tables of README.md, docs, benchmarks/README.md and benchmarks/tables from the result files and from what
the pack knows, between `<!-- table: NAME -->` and `<!-- end -->`.

    python -m benchmarks.report.tables
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable

from benchmarks.kernels.instruction_table import instructions_table
from benchmarks.kernels.sass_tables import calibration_table, shipped_speeds_table
from benchmarks.models.end_to_end_tables import forwards_table, sampler_table
from benchmarks.quality.error_time import error_time_table, verified_table
from benchmarks.report.messages_table import reasons_table
from benchmarks.report.models_table import models_table
from benchmarks.report.own_time_table import own_time_table
from benchmarks.report.plan_tables import (
    distance_table,
    first_generation_table,
    masks_table,
    methods_table,
    real_size_table,
    solver_table,
    transfer_table,
)
from benchmarks.report.result_files import ROOT, all_if_any, made_by, newest, of_each
from benchmarks.report.shipped_tables import hold_out_table, needs_table, predictions_table, prior_table, shipped_table

QUALITY = "python -m benchmarks.quality.quality --density 0.2 0.35 0.5 --singles 2 --paper"
STATISTICS = "python -m benchmarks.quality.attention_statistics --grid 9 18 22 --prompts 8"


def quality_table() -> str:
    """Searched plans, the best single pattern at each plan's density, and the paper's rule."""
    result = newest("quality", QUALITY)
    rows = result["rows"]
    lines = [
        "| pattern of the heads | density | PSNR, dB | SSIM | flicker | distance to true ones | loss on true ones |",
        "|---|---|---|---|---|---|---|",
    ]
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and rows[end]["method"] == "uniform":
            end += 1
        lines.append(quality_line(rows[start], "", after=rows[start - 1] if start else None))
        if end > start + 1:
            best = max(rows[start + 1 : end], key=lambda row: row["psnr"])
            lines.append(quality_line(best, f"best of {end - start - 1} single patterns near it for all heads: "))
        start = end
    first = next(row for row in rows if "psnr" in row)
    grid = "x".join(map(str, first["grid"]))
    lines += [
        "",
        f"Mean of {first['prompts']} prompts that the profile has not seen; {grid} tokens, {first['steps']} steps, the "
        f"first {first['warmup']:.0%} dense; densities of the other steps, with tiles of 32x16 tokens in proportion to "
        "the small video. PSNR, SSIM and flicker (root mean square of the difference of frame differences): against "
        "the dense video of the same seed. Distance: Fréchet distance of blocks of 3 frames x 4 x 4 pixels to those "
        "of true videos of the same words; below dense it says nothing. Loss: flow matching, on true videos the "
        "training has not seen, at the noise levels after the dense start. "
        f"`{result['command']}`, {result['device']}, {result['date']}.",
    ]
    return "\n".join(lines)


def quality_line(row: dict, before: str, after: dict | None = None) -> str:
    """One line of the quality table; `after` is the row before it."""
    name = {
        "truth": "true videos",
        "dense": "dense",
        "ours_budget": "searched plan, one error budget",
        "ours_paper": f"searched plan, {row['rule']}",
        "uniform": before + row["rule"],
    }[row["method"]]
    if row["method"] == "ours_budget" and not row["warmup"]:
        name += ", sparse from the first step on"
    elif row["method"] == "ours_budget" and after and after["method"] == "uniform":
        name += ", searched for the density of that single pattern"
    shown = {"density": ".2f", "psnr": ".1f", "ssim": ".3f", "flicker": ".4f", "frechet": ".3f", "loss": ".4f"}
    # the loss begins after the warm-up: without one it would be the plan's again
    known = {**row, "loss": None} if row.get("warmup") == 0 else row
    cells = ["-" if known.get(field) is None else format(row[field], form) for field, form in shown.items()]
    return f"| {name} | {' | '.join(cells)} |"


def code_table() -> str:
    """Every kernel on every architecture, the worst of both dtypes and head dimensions."""
    result = newest("kernel_checks")
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in result["rows"]:
        if row["check"] == "code":
            groups.setdefault((row["arch"], row["kernel"]), []).append(row)
    lines = [
        "| GPU | kernel | registers | spills | shared memory, KiB of | tensor instructions, INT8 | compiled, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for (arch, kernel), rows in groups.items():
        shared, limit = max(row["shared"] for row in rows) / 1024, rows[0]["shared_limit"] / 1024
        registers, spills = (max(row[name] for row in rows) for name in ("registers", "spills"))
        cores = " / ".join(str(min(row[name] for row in rows)) for name in ("tensor_core", "int8_core"))
        cells = [arch, kernel, registers, spills, f"{shared:.0f} of {limit:.0f}", cores]
        lines.append(f"| {' | '.join(map(str, cells))} | {max(row['seconds'] for row in rows):.1f} |")
    return "\n".join([*lines, "", made_by(result)])


def numbers_table() -> str:
    """Relative errors by dtype and option, the worst of the tests' cases."""
    result = newest("kernel_checks")
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in result["rows"]:
        if row["check"] == "numbers":
            groups.setdefault((row["kernel"], row["dtype"]), []).append(row)
    lines = ["| kernel | dtype | cases | error | allowed |", "|---|---|---|---|---|"]
    for (kernel, dtype), rows in sorted(groups.items()):
        worst = [f"{max(row[name] for row in rows):.1e}" for name in ("error", "allowed")]
        lines.append(f"| {kernel} | {dtype} | {len(rows)} | {' | '.join(worst)} |")
    return "\n".join([*lines, "", made_by(result)])


def memory_table() -> str:
    """Memory and balance of the models' shapes."""
    result = newest("kernel_checks")
    rows = [row for row in result["rows"] if row["check"] == "memory"]
    balances = [name for name in rows[0] if name.startswith("imbalance")]
    shown = ["fp16_sums", "int8", "int8_fp16_sums", "packed", "routed"]
    lines = [
        "| shape | tokens | lists, MB | " + " | ".join(f"{name}, % of q+k+v" for name in shown) + " | "
        + " | ".join(f"longest / mean multiprocessor at {name.split('_')[1]}" for name in balances) + " |",
        "|---" * (3 + len(shown) + len(balances)) + "|",
    ]  # fmt: skip
    for row in rows:
        cells = [row["shape"], f"{row['tokens']:,}", f"{row['list_bytes'] / 1e6:.1f}"]
        cells += [f"{row[name]:.1%}".rstrip("%") for name in shown] + [f"{row[name]:.3f}" for name in balances]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", made_by(result)])


def cpu_table() -> str:
    """The torch backend beside PyTorch's dense attention on a CPU."""
    result = newest("kernels-cpu", "python -m benchmarks.kernels.kernels --device cpu")
    lines = ["| shape | method | density | ms | speed-up |", "|---|---|---|---|---|"]
    dense = {row["shape"]: row["ms"] for row in result["rows"] if row["method"] == "sdpa"}
    for row in result["rows"]:
        cells = [row["shape"], row["method"], f"{row['density']:.2f}", f"{row['ms']:.0f}"]
        lines.append(f"| {' | '.join(cells)} | {dense[row['shape']] / row['ms']:.2f} |")
    return "\n".join([*lines, "", made_by(result)])


def cpu_kinds_table() -> str:
    """The torch backend by kind of head."""
    result = newest("cpu_kinds")
    lines = [
        "| heads | density | dense, ms | sparse, ms | of which choosing tiles | speed-up | of ideal |",
        "|---" * 7 + "|",
    ]
    for row in result["rows"]:
        cells = [row["kind"], f"{row['density']:.2f}", *(f"{row[x]:.0f}" for x in ("dense_ms", "ms", "routing_ms"))]
        lines.append(f"| {' | '.join(cells)} | {row['speed_up']:.2f} | {row['of_ideal']:.2f} |")
    return "\n".join([*lines, "", made_by(result)])


def attention_table() -> str:
    """Density of the small Wan's heads beside those of real models."""
    result = newest("attention_statistics", STATISTICS)
    quantiles = "10 % | 25 % | 50 % | 75 % | 90 % of heads"
    lines = [f"| model | part of the | {quantiles} | prompts alike |", "|---" * 8 + "|"]
    names = {"keys": "keys"} | {order: f"tiles of 64 keys, {order} order" for order in ("spatial", "spatiotemporal")}
    for row in result["rows"]:
        if row["measure"] == "kind":
            continue
        alike = f"{row['correlation']:.3f}" if "correlation" in row else "-"
        cells = [row["model"], names[row["measure"]], *(f"{value:.3f}" for value in row["quantiles"]), alike]
        lines.append(f"| {' | '.join(cells)} |")
    first, kinds = result["rows"][0], next(row for row in result["rows"] if row["measure"] == "kind")
    counts = ", ".join(f"{count} {kind.replace('_', '-')}" for kind, count in kinds["kinds"].items())
    lines += [
        "",
        f"Small Wan: {'x'.join(map(str, first['grid']))} tokens, {first['prompts']} prompts, alike: correlation of "
        "two over heads. Cheapest kind that keeps 95 % of the mass in tiles of 128 x 64: "
        f"{counts} heads; prompts agree on {kinds['agreement']:.0%}.",
        made_by(result),
    ]
    return "\n".join(lines)


def rows_of(table: str) -> tuple[dict, list[dict]]:
    """Newest results of the tests in a real ComfyUI, and their rows of one table."""
    result = newest("compositions")
    return result, [row for row in result["rows"] if row["table"] == table]


def compositions_table() -> str:
    """Families by what else is in the workflow."""
    result, rows = rows_of("workflows")
    known = {name: list(dict.fromkeys(row[name] for row in rows)) for name in ("family", "model")}
    rows.sort(key=lambda row: [order.index(row[name]) for name, order in known.items()])
    heads = "sparse / dense calls | all-dense plan | sparse plan | beside direct calls"
    lines = [f"| family | model | workflow | {heads} | the report says |", "|---" * 8 + "|"]
    for row in rows:
        cells = [row["family"], row["model"], row["workflow"], f"{row['sparse_calls']} / {row['dense_calls']}"]
        cells += [difference(row.get(name)) for name in ("dense", "sparse", "direct")]
        if "uncompiled" in row:
            cells[-1] = f"{difference(row['uncompiled'])} (uncompiled)"
        lines.append(f"| {' | '.join(cells)} | {row.get('says', '')} |")
    stand_ins = sum("stand-in" in row["workflow"] for row in rows)
    whole = sum(all(name in row for name in ("dense", "sparse", "direct")) for row in rows)
    counted = f"{len(rows)} workflows, {whole} of them with all three comparisons; {stand_ins} with a stand-in."
    return "\n".join([*lines, "", counted, made_by(result)])


def difference(value: float | None) -> str:
    """A relative difference of latents."""
    return "-" if value is None else f"{value:.1e}" if value else "0"


def memory_of_runs_table() -> str:
    """Peak memory of whole runs."""
    result, rows = rows_of("memory")
    peaks: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        peaks.setdefault((row["model"], row["attention"]), {})[row["variant"]] = row["peak"]
    variants = list(next(iter(peaks.values())))
    heads = " | ".join(f"{variant}, MB" for variant in variants)
    lines = [f"| model | ComfyUI's own attention | {heads} |", "|---" * (2 + len(variants)) + "|"]
    for names, found in peaks.items():
        lines.append(f"| {' | '.join([*names, *(f'{found[variant] / 1e6:.0f}' for variant in variants)])} |")
    first = rows[0]
    what = f"{first['tokens']:,} tokens of 2 heads x 128 in fp32: q, k and v have {first['q_k_v'] / 1e6:.0f} MB."
    return "\n".join([*lines, "", what, made_by(result)])


def containers_table() -> str:
    """Peak memory of an attention call with q, k and v in containers."""
    result, rows = rows_of("containers")
    lines = ["| attention | peak with containers, MB | without |", "|---|---|---|"]
    for row in rows:
        peaks = " | ".join(f"{row[name] / 1e6:.1f}" for name in ("peak", "peak_without"))
        lines.append(f"| {row['attention']} | {peaks} |")
    return "\n".join([*lines, "", made_by(result)])


TABLES = {
    "README.md": {"predictions": predictions_table},
    "docs/reference/models.md": {"families": models_table},
    "docs/reference/report-messages.md": {
        "meant": lambda: reasons_table(True), "unmeant": lambda: reasons_table(False),
    },
    "docs/reference/shipped-plans.md": {"shipped": shipped_table, "predictions": predictions_table},
    "docs/explanation/evidence.md": {"quality": quality_table},
    "benchmarks/README.md": {
        "attention": attention_table, "numbers": numbers_table, "memory": memory_table, "cpu": cpu_table,
        "cpu_kinds": cpu_kinds_table,
        "runs": memory_of_runs_table, "containers": containers_table,
        "masks": masks_table, "methods": methods_table, "solver": solver_table,
        "hold_out": hold_out_table, "needs": needs_table, "prior": prior_table,
        "instructions": instructions_table,
        "sass_calibration": calibration_table, "sass_speeds": shipped_speeds_table,
        "transfer": transfer_table,
        "first_generation": first_generation_table,
        "distance": distance_table,
        "real_size": real_size_table,
        "made_heads": lambda: verified_table(
            of_each("calibrated_heads_verify", "shape"), newest("calibrated_heads_fit")
        ),
        "error_time": lambda: error_time_table(of_each("calibrated_heads", "shape")),
        "own_time": lambda: own_time_table(all_if_any("profile_own_time")),
    },
    "benchmarks/tables/compiled_code.md": {"code": code_table},
    "benchmarks/tables/workflows.md": {"compositions": compositions_table},
    "benchmarks/tables/end_to_end.md": {
        "end_to_end": lambda: forwards_table(of_each("end_to_end", "model")),
        "sampler_runs": lambda: sampler_table(of_each("end_to_end", "model")),
    },
}  # fmt: skip


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name, tables in TABLES.items():
        file = ROOT / name
        file.write_text(filled(file.read_text(), name, tables))


def filled(text: str, file: str, tables: dict[str, Callable[[], str]]) -> str:
    """A text with every table in its place."""
    for name, make in tables.items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        if not re.search(pattern, text, re.S):
            sys.exit(f"{file} has no place for table {name}")
        text = re.sub(pattern, lambda found, make=make: f"{found[1]}{make()}\n{found[2]}", text, flags=re.S)
    return text


if __name__ == "__main__":
    main()
