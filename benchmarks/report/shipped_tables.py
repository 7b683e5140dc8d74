"""Tables about the plans that ship, for `tables.py`: made from their files, and from what was checked of their rule."""

from __future__ import annotations

from pathlib import Path

from sparse_vdit.plans.plan.files import load_plan
from sparse_vdit.plans.plan.plan import Plan
from sparse_vdit.plans.plan.presets import PRESETS
from sparse_vdit.plans.search.cost import attention_share

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
        f"| model | name | grade | measured on the model | mean density, {presets} | attention, times as fast | "
        "a whole step |",
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
    known = [plans[BALANCED] for plans in shipped_plans().values() if BALANCED in plans]
    shares = ", ".join(f"{attention_share(plan):.0%} in {plan.card.model}" for plan in known)
    lines += [
        "",
        "Expected of the plan as it ships, where it runs: after the warm-up, on the measured 720p video. Times are "
        "counted operations: attention costs its density, and choosing tiles is added; a whole step also has its "
        "linear maps (24 S d^2 operations a layer beside 4 S^2 d, S tokens of width d), so attention is "
        f"{shares}. **Nothing of it was timed on a real model.**",
    ]
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
