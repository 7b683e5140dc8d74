"""Error against time: the picture of `calibrated_heads.py`, its tables, and times at equal error."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks.quality.head_generator import MAX_QUERIES, SURE
from benchmarks.report.result_files import NOT_YET, made_by

ERRORS = (0.05, 0.1, 0.2)
SIZE, MARGIN, LEGEND = 320, 56, 170
INKS = {
    "ours_bf16": "#0b6e4f", "ours_int8": "#3bb273", "ours_routed": "#2e86ab",
    "kitchen_sol_topk": "#d1495b", "kitchen_sol_topk_bricks": "#e88b97", "kitchen_sol_topk_extra": "#9e2a2b",
    "kitchen_sol_1.0": "#edae49", "kitchen_sol_1.3": "#b8860b", "kitchen_sol_1.0_bricks": "#f5d491",
    "kitchen_sol_1.3_bricks": "#d9b95b",
}  # fmt: skip
GREY = "#444444"
TOYS = "**A toy, a trial of the script: its times mean nothing.**"

Panel = tuple[str, str]


def panels(rows: list[dict]) -> dict[Panel, dict[str, list[tuple[float, float]]]]:
    """By shape and content, and then by method: (milliseconds, error), the fastest first."""
    found: dict[Panel, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        if "ms" in row:
            methods = found.setdefault((row["shape"], row["content"]), {})
            methods.setdefault(row["method"], []).append((row["ms"], row["rel_l2_dense"]))
    return {panel: {name: sorted(points) for name, points in methods.items()} for panel, methods in found.items()}


def time_at_error(points: list[tuple[float, float]], error: float) -> float | None:
    """Milliseconds in which a method reaches an error, between its measured points (milliseconds, error) on a line in
    the error's logarithm; its fastest time where that is exact enough, None where no point is."""
    exact = [(ms, found) for ms, found in points if found <= error]
    if not exact:
        return None
    ms, found = min(exact)
    coarser = [point for point in points if point[0] < ms]
    if not coarser:
        return ms
    before, above = max(coarser)
    part = math.log(above / error) / math.log(above / max(found, 1e-9))
    return before + part * (ms - before)


def draw(rows: list[dict], file: Path) -> None:
    """One panel for every shape and content: error, logarithmic, over milliseconds; dense methods are grey."""
    found = panels(rows)
    width = len(found) * (SIZE + MARGIN) + MARGIN + LEGEND
    canvas = Image.new("RGB", (width, SIZE + 2 * MARGIN), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (panel, methods) in enumerate(found.items()):
        draw_panel(pen, panel, methods, MARGIN + number * (SIZE + MARGIN))
    names = list(dict.fromkeys(name for methods in found.values() for name in methods))
    for number, name in enumerate(names):
        pen.text((width - LEGEND, MARGIN + 14 * number), name, fill=INKS.get(name, GREY))
    canvas.save(file, optimize=True)


def draw_panel(pen: ImageDraw.ImageDraw, panel: Panel, methods: dict[str, list], left: int) -> None:
    """Axes and points of one shape and content."""
    points = [point for found in methods.values() for point in found]
    slowest, errors = max(ms for ms, _ in points), [max(error, 1e-4) for _, error in points]
    low, high = math.log10(min(errors)), math.log10(max(errors)) + 0.1

    def at(ms: float, error: float) -> tuple[float, float]:
        up = (math.log10(max(error, 1e-4)) - low) / (high - low)
        return left + ms / slowest * SIZE, MARGIN + SIZE * (1 - up)

    pen.rectangle((left, MARGIN, left + SIZE, MARGIN + SIZE), outline="black")
    pen.text((left, MARGIN - 28), f"{panel[0]}, {panel[1]}: error over ms", fill="black")
    pen.text((left, MARGIN + SIZE + 6), "0", fill="black")
    pen.text((left + SIZE - 30, MARGIN + SIZE + 6), f"{slowest:.3g}", fill="black")
    for exponent in (low, high):
        pen.text((left - 44, at(0, 10**exponent)[1] - 6), f"{10**exponent:.1e}", fill="black")
    for name, found in methods.items():
        ink, spots = INKS.get(name, GREY), [at(*point) for point in found]
        pen.line(spots, fill=ink, width=2)
        for x, y in spots:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=ink)


def error_time_table(result: dict | None) -> str:
    """Time of every method at equal errors."""
    if result is None:
        return NOT_YET
    heads = " | ".join(f"ms at error {error:g}" for error in ERRORS)
    lines = [f"| heads | content | method | {heads} |", "|---" * (3 + len(ERRORS)) + "|"]
    for (shape, content), methods in panels(result["rows"]).items():
        for name, points in methods.items():
            times = [time_at_error(points, error) for error in ERRORS]
            cells = ["-" if ms is None else f"{ms:.2f}" for ms in times]
            lines.append(f"| {shape} | {content} | {name} | {' | '.join(cells)} |")
    warning = [TOYS, ""] if any(row["shape"] == "tiny" for row in result["rows"]) else []
    return "\n".join([*warning, *lines, "", made_by(result)])


def verified_table(result: dict | None, fitted: dict) -> str:
    """Densities of made heads beside published ones, and what was fitted for them on the small Wan."""
    if result is None:
        return f"*Not yet run.* {fitted_text(fitted)}"
    quantiles = "10 % | 25 % | 50 % | 75 % | 90 % of heads"
    lines = [f"| heads | content's part | {quantiles} | furthest quantile |", "|---" * 8 + "|"]
    for row in result["rows"]:
        if row["share"] == 0:
            values = " | ".join(f"{value:.4f}" for value in row["published"])
            lines.append(f"| {row['shape']}, published | - | {values} | - |")
        values = " | ".join(f"{value:.4f}" for value in row["made"])
        lines.append(f"| {row['shape']}, made | {row['share']:.0%} | {values} | {row['worst_quantile']:.1%} |")
    few, many = zip(*(row["queries"] for row in result["rows"]), strict=True)
    told = (
        f"Part of the keys with 95 % of the softmax mass; made are {result['rows'][0]['heads']} heads that stand for "
        f"all of a model, each seen at as many random queries ({min(few)} to {max(many)}) as it takes to know its mean "
        f"to {SURE:.0%}, {MAX_QUERIES} at most; furthest is relative. {fitted_text(fitted)}"
    )
    return "\n".join([*lines, "", told, made_by(result)])


def fitted_text(fitted: dict) -> str:
    """What heads of the small Wan are like, in words."""
    found = {row["measure"]: row["heads"] for row in fitted["rows"]}
    share, alike = found["share"], found["alike"]
    return (
        f"On the small Wan content is {min(share):.0%} to {max(share):.0%} of a head's variance of scores, and values "
        f"of neighbours correlate by {min(alike):.2f} to {max(alike):.2f} ({made_by(fitted).rstrip('.')})."
    )
