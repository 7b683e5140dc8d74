"""Do the shipped plans' densities carry over? One of the measured models is held out and predicted from another.

Real models' densities of keys (`tools/measurements`), the shipped plans' rule (`tools/plans/rule.py`):

    model to model     Wan 2.1 -> 2.2, text -> image to video: means over the steps after the first fifth
    steps              0-14 -> 15 to the last, of each model
    own                each model's mean over those steps -> its single steps: what a shipped plan itself risks

For each the error of the density, and for each preset the share of heads whose plan would be unsafe: it would keep less
of the softmax mass than the preset allows, if the needs of tiles are those of the rule. That they are is another
question, which `tile_needs.py` and `prior_plans.py` ask on the small Wan.

    python -m benchmarks.quality.hold_out                 # a second
    python -m benchmarks.quality.hold_out --margins       # also the margins of least density that leave MAX_UNSAFE

Writes benchmarks/results/hold_out-<device>-<date>.json.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.report.results import save_results
from tools.plans.measurements import (
    STA_FIRST,
    WARM_UP,
    key_densities,
    mean_key_densities,
    measured_models,
)
from tools.plans.rule import RULES, Rule

MAX_UNSAFE = 0.02
TRANSFERS = (
    ("wan_14B_t2v", "wan22_A14B_t2v"),
    ("wan_14B_i2v", "wan22_A14B_i2v"),
    ("wan_14B_t2v", "wan_14B_i2v"),
    ("wan22_A14B_t2v", "wan22_A14B_i2v"),
    ("hunyuan10_13B_t2v", "hunyuan10_13B_i2v"),
)
"""A model, and the one that is predicted from it. The way back, from the sparser models that have an image to the
others, is shown too, but no margin is chosen for it."""
TIMES, ADDED = np.arange(1, 1.5, 0.05), np.arange(0, 0.125, 0.01)


@dataclass(frozen=True)
class HoldOut:
    """What is predicted from what: densities of keys, known (layers, heads) and true (..., layers, heads).

    Attributes:
        kind: `transfer`, `back`, `steps` or `own`.
    """

    kind: str
    known_name: str
    true_name: str
    known: np.ndarray
    true: np.ndarray

    def unsafe(self, rule: Rule) -> float:
        """Share of heads whose plan would be unsafe."""
        return float(rule.unsafe(rule.planned(self.known), self.true).mean())

    def row(self) -> dict:
        """Of the result file."""
        error = np.abs(self.known - self.true)
        true = np.broadcast_to(self.true, error.shape)
        known = np.broadcast_to(self.known, error.shape)
        return {
            "kind": self.kind, "known": self.known_name, "held_out": self.true_name,
            "error": round(float(error.mean()), 4),
            "correlation": round(float(np.corrcoef(known.ravel(), true.ravel())[0, 1]), 4),
            **{f"unsafe_{preset}": round(self.unsafe(rule), 4) for preset, rule in RULES.items()},
            **{f"density_{preset}": round(float(rule.planned(self.known).mean()), 4) for preset, rule in RULES.items()},
        }  # fmt: skip


def hold_outs() -> list[HoldOut]:
    """All of them."""
    found = []
    for kind, pairs in (("transfer", TRANSFERS), ("back", [(b, a) for a, b in TRANSFERS])):
        for known, true in pairs:
            found.append(HoldOut(kind, known, true, mean_key_densities(known), mean_key_densities(true)))
    for model in measured_models():
        early, late = mean_key_densities(model, 0, STA_FIRST), mean_key_densities(model, STA_FIRST)
        names = f"{model}, steps 0-{STA_FIRST - 1}", f"{model}, later steps"
        found.append(HoldOut("steps", *names, early, late))
    for model in measured_models():
        steps = key_densities(model)
        after = steps[round(WARM_UP * len(steps)) :]
        found.append(HoldOut("own", f"{model}, mean", f"{model}, single steps", mean_key_densities(model), after))
    return found


def best_margins(rule: Rule, checks: list[HoldOut]) -> Rule:
    """The margins of least mean density over all models that leave at most MAX_UNSAFE in every check."""
    models = [mean_key_densities(model) for model in measured_models()]

    def density(margins: tuple[float, float]) -> float:
        return float(np.mean([with_margins(rule, margins).planned(keys).mean() for keys in models]))

    for margins in sorted(itertools.product(TIMES.tolist(), ADDED.tolist()), key=density):
        if max(check.unsafe(with_margins(rule, margins)) for check in checks) <= MAX_UNSAFE:
            return with_margins(rule, margins)
    raise SystemExit(f"no margins up to {TIMES[-1]:.2f} and {ADDED[-1]:.2f} leave so few heads unsafe")


def with_margins(rule: Rule, margins: tuple[float, float]) -> Rule:
    """A rule with other margins."""
    return replace(rule, times=round(margins[0], 2), added=round(margins[1], 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--margins", action="store_true", help="search margins and print them")
    args = parser.parse_args()
    found = hold_outs()
    if args.margins:
        for preset, rule in RULES.items():
            print(preset, best_margins(rule, [check for check in found if check.kind != "back"]))
    rows = [check.row() for check in found]
    for row in rows:
        print(row)
    print("Written to", save_results("hold_out", rows))


if __name__ == "__main__":
    main()
