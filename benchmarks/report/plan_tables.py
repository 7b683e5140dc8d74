"""Tables of benchmarks/README.md about plans, for `tables.py`."""

from __future__ import annotations

from benchmarks.report.result_files import all_of, made_by, newest, newest_if_any

METHODS = {
    "ours_budget": "searched, one error budget",
    "ours_paper": "searched, the paper's rule",
    "uniform": "one window for all heads, the better of two",
    "sta": "STA's windows, best of five for each head",
    "psa": "PSA's rule, relative error for each head",
    "radial": "radial attention",
    "svg": "SVG, space or time at each call",
    "topk64": "pooled top-k at each call, one k for all",
}


def masks_table() -> str:
    """The candidate closest to each published mask."""
    result = newest("published_masks")
    lines = [
        "| published mask | its density | closest candidate | order | density | of the mask it keeps | overlap |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        grid = "x".join(map(str, row["grid"]))
        lines.append(
            f"| {row['source']}, {grid} tokens: {row['mask']} | {row['density']:.2f} | {row['candidate']} | "
            f"{row['order']} | {row['candidate_density']:.2f} | {row['recall']:.0%} | {row['overlap']:.2f} |"
        )
    return "\n".join([*lines, "", "Overlap: pairs of both / pairs of any. " + made_by(result)])


ALIKE = 0.005  # densities
BESIDE = "ours_beside_"
"""Begins the method of a row of ours that is as dense as another method's, which missed the wanted density."""


def compared_methods() -> list[dict]:
    """Results of all comparisons of methods on the videos of the latest."""
    results = all_of("plans")
    return [result for result in results if _videos(result) == _videos(results[-1])]


def methods_by_density() -> dict[tuple[str, float], list[dict]]:
    """Rows by method and wanted density: of ours the latest, of other methods and beside them all that were tried."""
    found: dict[tuple[str, float], list[dict]] = {}
    for row in (row for result in compared_methods() for row in result["rows"] if "wanted" in row):
        latest_only = row["method"].startswith("ours") and not row["method"].startswith(BESIDE)
        before = [] if latest_only else found.get(_key(row), [])
        found[_key(row)] = [*before, row]
    return found


def methods_table() -> str:
    """PSNR of every method at every density that was asked for, from all results on the same videos: the best of other
    methods, the latest of ours."""
    alike, found = compared_methods(), methods_by_density()
    densities = sorted({wanted for _, wanted in found})
    lines = [
        "| method | " + " | ".join(f"density {density:g}" for density in densities) + " |",
        "|---|" + "---|" * len(densities),
    ]
    for method, name in METHODS.items():
        cells = [max(found.get((method, density), []), key=_quality, default=None) for density in densities]
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(map(_psnr, cells)) + " |")
        rows = [found.get((BESIDE + method, density), []) for density in densities]
        beside = list(map(_as_dense, cells, rows))
        if any(beside):
            lines.append("| searched, one error budget, as dense as that | " + " | ".join(map(_psnr, beside)) + " |")
    first = next(iter(found.values()))[0]
    grid = "x".join(map(str, first["grid"]))
    about = (
        f"PSNR in dB against the dense video, in brackets the density; mean of {first['prompts']} prompts that no "
        f"profile has seen, {grid} tokens, {first['steps']} steps, the first {first['warmup']:.0%} dense."
    )
    return "\n".join([*lines, "", " ".join([about, *map(made_by, alike)])])


def _videos(result: dict) -> tuple:
    """What results must share to stand side by side."""
    return tuple(str(result["rows"][0][name]) for name in ("model", "grid", "steps", "prompts"))


def _key(row: dict) -> tuple[str, float]:
    return row["method"], row["wanted"]


def _quality(row: dict) -> float:
    return row["psnr"]


def _as_dense(row: dict | None, rows: list[dict]) -> dict | None:
    """The latest of some rows that has a row's density, None where none has."""
    alike = [one for one in rows if row is not None and abs(one["density"] - row["density"]) < ALIKE]
    return alike[-1] if alike else None


def _psnr(row: dict | None) -> str:
    return "-" if row is None else f"{row['psnr']:.1f} ({row['density']:.2f})"


def transfer_table() -> str:
    """What plans are worth that were found on little, on the video itself, or on a smaller one."""
    result = newest("plan_transfer")
    lines = ["| plan | tokens | density | PSNR, dB |", "|---|---|---|---|"]
    for row in result["rows"]:
        grid = "x".join(map(str, row["grid"]))
        lines.append(f"| {row['what']} | {grid} | {row['density']:.2f} | {row['psnr']:.1f} |")
    first, last = result["rows"][0], result["rows"][-1]
    about = f"Mean of {first['prompts']} prompts, {last['prompts']} on the larger grid; {first['steps']} steps."
    return "\n".join([*lines, "", f"{about} {made_by(result)}"])


def first_generation_table() -> str:
    """Videos of the first generation, which finds its plan on the way, and of the second."""
    result = newest("first_generation")
    lines = ["| generation | density | PSNR, dB | below the second |", "|---|---|---|---|"]
    for row in result["rows"]:
        gap = f"{row['gap_db']:.1f}" if "gap_db" in row else "-"
        lines.append(f"| {row['what']} | {row['density']:.2f} | {row['psnr']:.1f} | {gap} |")
    first = result["rows"][0]
    about = f"Mean of {first['prompts']} prompts, {first['steps']} steps; `below the second`: on the next prompt."
    return "\n".join([*lines, "", about, made_by(result)])


def distance_table() -> str:
    """What the predicted error of a plan says of its videos."""
    result = newest("expected_distance")
    *plans, line = result["rows"]
    lines = ["| density | predicted error | PSNR, dB | lowest to highest |", "|---|---|---|---|"]
    for row in plans:
        cells = f"{row['density']:.2f} | {row['predicted_error']:.3f} | {row['psnr']:.1f}"
        lines.append(f"| {cells} | {row['lowest']:.1f} to {row['highest']:.1f} |")
    about = f"{line['prompts']} unseen prompts, {line['steps']} steps. PSNR = {line['slope']} log10(error) + "
    about += f"{line['at_one']} dB. Single videos lie {line['spread']} dB around that (standard deviation)."
    return "\n".join([*lines, "", about, made_by(result)])


def real_size_table() -> str:
    """Searched plans at the size of a real video."""
    result = newest_if_any("real_size")
    if result is None:
        return "It has not run yet: it takes hours on two cores."
    lines = ["| density | PSNR, dB | lowest | SSIM | flicker | prompts |", "|---" * 6 + "|"]
    rows = [row for row in result["rows"] if "lowest_psnr" in row]
    for row in sorted(rows, key=lambda row: row["density"]):
        cells = [f"{row['density']:.2f}", f"{row['psnr']:.1f}", f"{row['lowest_psnr']:.1f}", f"{row['ssim']:.3f}"]
        cells += [f"{row['flicker']:.4f}", str(row["prompts"])]
        lines.append(f"| {' | '.join(cells)} |")
    grid, tiles = ("x".join(map(str, rows[0][name])) for name in ("grid", "tiles"))
    about = f"{grid} tokens, tiles of {tiles}, {rows[0]['steps']} steps, the first {rows[0]['warmup']:.0%} dense."
    return "\n".join([*lines, "", about, made_by(result)])


def solver_table() -> str:
    """Searches at full size, by target."""
    result = newest("solver")
    lines = [
        "| target | seconds | above the bound, at most | density | attention, times as fast | error |",
        "|---" * 6 + "|",
    ]
    for row in result["rows"]:
        cells = [f"{row['target']} {row['value']}", f"{row['seconds']:.1f}", f"{row['gap']:.0e}"]
        cells += [f"{row['density']:.3f}", f"{row['speedup']:.2f}", f"{row['error']:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    first = result["rows"][0]
    size = "{layers} layers of {heads} heads, {candidates} candidates, {bands} bands.".format(**first)
    return "\n".join([*lines, "", size, made_by(result)])
