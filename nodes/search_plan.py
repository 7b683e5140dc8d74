"""Search Sparse Plan: chooses a pattern for every head from a profile."""

from __future__ import annotations

from comfy_api.latest import io

from ..plans.plan import Plan
from ..plans.profile import Profile
from ..plans.search import search_budget, search_paper, skip_warning
from .host.report import warn
from .sockets import CATEGORY, PlanType, ProfileType, paper_inputs

BY_DENSITY, BY_ERROR, BY_PAPER = "budget: density", "budget: error", "paper"


class SearchPlan(io.ComfyNode):
    """Runs a selection rule; seconds, without the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTSearchPlan",
            display_name="Search Sparse Plan",
            category=CATEGORY,
            description="Chooses a pattern for every head from a profile, so that the whole model meets a target. "
            "Takes seconds and needs no new measurement; try several targets on one profile.",
            search_aliases=["search plan", "sparse plan", "calibrate", "sparse attention"],
            inputs=[
                ProfileType.Input("profile", tooltip="Measurements from Profile Heads."),
                io.DynamicCombo.Input(
                    "rule",
                    tooltip="How to choose. A budget over all heads is the better rule; paper is the rule of "
                    "Sparse-vDiT (arXiv 2506.03065), a threshold per head.",
                    options=[
                        io.DynamicCombo.Option(
                            BY_DENSITY,
                            [
                                io.Float.Input(
                                    "density",
                                    default=0.35,
                                    min=0.01,
                                    max=1.0,
                                    step=0.01,
                                    tooltip="Share of all attention to compute, mean over heads. Lower is faster and "
                                    "further from the dense video.",
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            BY_ERROR,
                            [
                                io.Float.Input(
                                    "error",
                                    default=0.1,
                                    min=0.001,
                                    max=1.0,
                                    step=0.001,
                                    tooltip="Largest error of all heads together, relative to what attention adds. "
                                    "The sparsest plan below it is taken.",
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(BY_PAPER, paper_inputs()),
                    ],
                ),
            ],
            outputs=[PlanType.Output(display_name="plan", tooltip="For Sparse-vDiT Patch Model or Save Sparse Plan.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, profile: Profile, rule: dict) -> io.NodeOutput:
        """The plan that the rule chooses; errors of the search are passed on as they are."""
        plan = search(profile, rule)
        warning = skip_warning(plan)
        if warning is not None:
            warn(warning, cls.hidden.unique_id)
        return io.NodeOutput(plan)


def search(profile: Profile, rule: dict) -> Plan:
    """Plan for the DynamicCombo's value: {"rule": name, and the inputs of that rule}."""
    name = rule["rule"]
    if name == BY_DENSITY:
        return search_budget(profile, density=rule["density"])
    if name == BY_ERROR:
        return search_budget(profile, error=rule["error"])
    return search_paper(profile, lam=rule["lam"], epsilon=rule["epsilon"])
