"""Search Sparse Plan: chooses a pattern for every head from a profile."""

from __future__ import annotations

from functools import partial

import comfy.utils
from comfy_api.latest import io

from ..plans.plan.plan import Plan
from ..plans.plan.presets import DEFAULT_PRESET, PRESETS
from ..plans.profile.profile import Profile
from ..plans.search.cost import HeadCosts, profile_costs
from ..plans.search.search import DEFAULT_SKIPPED, SKIP_LIMIT, search_budget, search_paper, skip_warning
from .host.library.latency_table import latencies
from .host.ui.report import say, warn
from .host.ui.viewer import SHOWN, shown_plan
from .sockets import CATEGORY, PRESET_TOOLTIP, PlanType, ProfileType, paper_inputs

BUDGETS = {"preset": "preset", "budget: speed-up": "speedup", "budget: density": "density", "budget: error": "error"}
"""Names of the rules by one budget, and of their target, an input of the node as of `search_budget`."""
BY_PAPER = "paper"


class SearchPlan(io.ComfyNode):
    """Runs a selection rule; seconds, without the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTSearchPlan",
            display_name="Sparse-vDiT Search Sparse Plan",
            category=CATEGORY,
            description="Makes a plan from a profile: chooses a pattern for every head so that the whole model meets a "
            "target. It takes seconds and needs no new video, so try several targets. On a GPU it first times "
            "attention, once for each video size.",
            search_aliases=["search plan", "make plan", "plan"],
            inputs=[
                ProfileType.Input("profile", tooltip="Measurements from Profile Heads."),
                io.DynamicCombo.Input(
                    "rule",
                    tooltip="preset and budgets: one target for all heads together, which gives the better plans. "
                    "paper: the rule of Sparse-vDiT (arXiv 2506.03065), a threshold for each head.",
                    options=[
                        *(io.DynamicCombo.Option(name, [target_input(target)]) for name, target in BUDGETS.items()),
                        io.DynamicCombo.Option(BY_PAPER, paper_inputs()),
                    ],
                ),
                io.Float.Input(
                    "most_skipped",
                    default=DEFAULT_SKIPPED,
                    min=0.0,
                    max=SKIP_LIMIT,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Largest share of heads that may be skipped completely. The rule paper ignores it.",
                ),
            ],
            outputs=[PlanType.Output(display_name="plan", tooltip="For Sparse-vDiT Patch or Save Sparse Plan.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, profile: Profile, rule: dict, most_skipped: float = DEFAULT_SKIPPED) -> io.NodeOutput:
        """The plan that the rule chooses; errors of the search are passed on as they are."""
        node_id = cls.hidden.unique_id
        bar = comfy.utils.ProgressBar(3)  # after the latencies, which have a bar of their own, the search and the view
        table = latencies(profile.header, partial(say, node_id=node_id), partial(warn, node_id=node_id))
        costs = profile_costs(profile.header, table)
        bar.update_absolute(1)
        plan = search(profile, rule, most_skipped, costs)
        bar.update_absolute(2)
        warning = skip_warning(plan)
        if warning is not None:
            warn(warning, node_id)
        view = shown_plan(plan, "", profile)
        bar.update_absolute(3)
        return io.NodeOutput(plan, ui={SHOWN: [view]})


def search(profile: Profile, rule: dict, most_skipped: float, costs: HeadCosts) -> Plan:
    """Plan for the DynamicCombo's value: {"rule": name, and the inputs of that rule}."""
    target = BUDGETS.get(rule["rule"])
    if target is None:
        return search_paper(profile, lam=rule["lam"], epsilon=rule["epsilon"], costs=costs)
    return search_budget(profile, most_skipped=most_skipped, costs=costs, **{target: rule[target]})


def target_input(target: str) -> io.Input:
    """The input of a target."""
    if target == "preset":
        return io.Combo.Input(
            "preset",
            options=list(PRESETS),
            default=DEFAULT_PRESET,
            tooltip=PRESET_TOOLTIP,
        )
    tooltip, numbers = {
        "speedup": (
            "How many times as fast as dense attention should be. The search then makes the error as small as it can.",
            {"default": 3.0, "min": 1.0, "max": 20.0, "step": 0.1},
        ),
        "density": (
            "Share of attention to compute, mean over heads: 0.35 is 35 %. Lower is faster and further from the dense "
            "video.",
            {"default": 0.35, "min": 0.01, "max": 1.0, "step": 0.01},
        ),
        "error": (
            "Largest error of all heads together, relative to the output of attention. The search takes the fastest "
            "plan below it.",
            {"default": 0.1, "min": 0.001, "max": 1.0, "step": 0.001},
        ),
    }[target]
    return io.Float.Input(target, tooltip=tooltip, **numbers)
