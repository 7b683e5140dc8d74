"""Tables about the plans that ship, for `tables.py`: made from their files, and from what was checked of their rule."""

from __future__ import annotations

from pathlib import Path

from sparse_vdit.plans.plan.files import load_plan
from sparse_vdit.plans.plan.plan import Plan
from sparse_vdit.plans.plan.presets import PRESETS

from benchmarks.report.result_files import ROOT, made_by, newest

ANY, BALANCED = "calibrate", "balanced"
GRADES = {
    "measured": "density of each head",
    "prior": "density of each head",
    "calibrate": "nothing",
}
"""What was measured of the model itself, by the grade."""
KINDS = {
    "transfer": "from one model to another",
    "back": "the way back, for which no margin was chosen",
    "steps": "from the first steps to the later ones",
    "own": "a shipped plan's own model, single steps",
}
START = 0.2  # the patch node's start_percent
HUNYUAN_SHIFT = 7  # of the noise schedule: sigma = shift u / (1 + (shift - 1) u), u falls from 1 to 0
GENERATIONS = {
    "Wan 2.1 1.3B, 81 frames": lambda plan: plan.family == "wan" and plan.layers == 30,
    "Wan 2.1 and 2.2 14B, 81 frames": lambda plan: plan.family == "wan" and plan.layers == 40,
    "HunyuanVideo, 129 frames": lambda plan: plan.family == "hunyuan_video",
}
"""Models whose densities were published, as the README groups them."""
ANCHORS = (0.01, 0.05, 0.2, 0.7)


def shipped_plans() -> dict[tuple[str, str], dict[str, Plan]]:
    """Plans by preset, of every (family, name of the model's files)."""
    found: dict[tuple[str, str], dict[str, Plan]] = {}
    for path in sorted((ROOT / "plans").glob("*/*.json")):
        model, preset = Path(path.stem).stem, Path(path.stem).suffix[1:]
        found.setdefault((path.parent.name, model), {})[preset] = load_plan(path)
    return found


def shipped_table() -> str:
    """One row for each model."""
    presets = " / ".join(PRESETS)
    lines = [
        f"| model | name | grade | measured on the model | mean density, {presets} | speed-up of attention | "
        "of a step |",
        "|---" * 7 + "|",
    ]
    for (family, name), plans in shipped_plans().items():
        first = next(iter(plans.values()))
        measured = "which heads can be sparse" if first.card.kept_dense else GRADES[first.grade]
        if first.grade == "measured":
            heads = " / ".join(str(plans[preset].provenance.parameters["heads_with_windows"]) for preset in PRESETS)
            measured += f", windows of {heads} of the {first.layers * first.heads}"
        cells = [first.card.model, f"`{family}/{name}`", first.grade, measured]
        if ANY in plans:
            cells += [f"found, at least {first.card.least_density:.2f}", "-", "-"]
        else:
            told = [plans[preset].provenance.parameters for preset in PRESETS]
            cells += [
                " / ".join(f"{one[field]:{form}}" for one in told)
                for field, form in (("mean_density", ".2f"), ("attention_speedup", ".1f"), ("step_speedup", ".1f"))
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def dense_share(plan: Plan) -> float:
    """Share of the schedule that stays dense at the default settings: the dense start, or all that lies above the noise
    levels that the plan was measured at."""
    highest = max(band.sigma_high for band in plan.bands)
    if highest >= 1:
        return START
    return max(START, 1 - highest / (HUNYUAN_SHIFT - (HUNYUAN_SHIFT - 1) * highest))


def generation_speedup(plan: Plan, height: int, width: int) -> float:
    """Expected of a whole generation, by counted operations, on a video of this many tokens along its axes."""
    tokens = plan.grid[0] * height * width
    share = tokens / (tokens + 6 * plan.heads * plan.head_dim)
    step = 1 / (1 - share + share / plan.provenance.parameters["attention_speedup"])
    dense = dense_share(plan)
    return 1 / (dense + (1 - dense) / step)


def predictions_table() -> str:
    """Whole generations at the default preset, by counted operations."""
    lines = [
        "| model | 832x480 | 1280x720 |",
        "|---|---|---|",
    ]
    plans = [plans[BALANCED] for plans in shipped_plans().values() if BALANCED in plans]
    for name, chosen in GENERATIONS.items():
        group = [plan for plan in plans if chosen(plan)]
        cells = []
        for height, width in ((30, 52), (45, 80)):
            speeds = [f"{generation_speedup(plan, height, width):.1f}" for plan in group]
            cells.append(" to ".join(dict.fromkeys((f"{min(speeds)}x", f"{max(speeds)}x"))))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def hold_out_table() -> str:
    """What is predicted from what, and how often a plan would be unsafe."""
    result = newest("hold_out")
    names = {preset: f"unsafe, {preset}" for preset in PRESETS}
    lines = [f"| known | held out | error of density | correlation | {' | '.join(names.values())} |", "|---" * 7 + "|"]
    for kind, title in KINDS.items():
        lines.append(f"| **{title}** |  |  |  |  |  |  |")
        for row in (row for row in result["rows"] if row["kind"] == kind):
            shares = [f"{row[f'unsafe_{preset}']:.1%}" for preset in PRESETS]
            cells = [row["known"], row["held_out"], f"{row['error']:.3f}", f"{row['correlation']:.3f}", *shares]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", made_by(result)])


def needs_table() -> str:
    """How many times as many tiles as keys a head needs."""
    result = newest("tile_needs")
    fitted = next(row for row in result["rows"] if row["what"] == "exponents")
    masses = sorted(float(name.split("_")[1]) for name in fitted if name.startswith("best_"))
    anchors = " | ".join(f"of {anchor:g} of the keys" for anchor in ANCHORS)
    lines = [f"| tiles that hold | exponent | {anchors} | routed heads' exponent |", "|---" * (3 + len(ANCHORS)) + "|"]
    for mass in masses:
        exponent = fitted[f"best_{mass:g}"]
        cells = [f"x {anchor ** (exponent - 1):.1f}" for anchor in ANCHORS]
        lines.append(f"| {mass:.0%} | {exponent:.2f} | {' | '.join(cells)} | {fitted[f'routed_{mass:g}']:.2f} |")
    grid = "x".join(map(str, fitted["grid"]))
    about = f"Small Wan, {grid} tokens, {fitted['key_tiles']} key tiles."
    return "\n".join([*lines, "", f"{about} {made_by(result)}"])


def prior_table() -> str:
    """Prior and completed plans of the small Wan beside searched ones of their density."""
    result = newest("prior_plans")
    rows = [row for row in result["rows"] if "psnr" in row]
    lines = ["| plan | density | PSNR, dB | searched for that density, dB | difference |", "|---" * 5 + "|"]
    for plan, searched in zip(rows[::2], rows[1::2], strict=False):  # of a run that was stopped the last has no partner
        cells = [plan["rule"], f"{plan['density']:.2f}", f"{plan['psnr']:.1f}", f"{searched['psnr']:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {plan['psnr'] - searched['psnr']:+.1f} |")
    first = rows[0]
    grid = "x".join(map(str, first["grid"]))
    steps = f"{first['steps']} steps, the first {first['warmup']:.0%} dense"
    about = f"Mean of {first['prompts']} prompts, {grid} tokens, {steps}."
    return "\n".join([*lines, "", f"{about} {made_by(result)}"])
