"""Preview Sparse Plan: a picture of which head runs what, and the plan in words."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..plans.plan.plan import MAX_BANDS, MAX_HEADS, MAX_LAYERS, Plan
from ..plans.profile.profile import Profile
from ..plans.search.cost import NO_ATTENTION, attention_share, plan_speedup, step_speedup
from ..plans.search.search import skip_warning
from ..plans.view.drawing import draw_plan
from ..plans.view.expected import expected_distance
from ..plans.view.head_drawing import draw_head, fitting_maps
from .sockets import CATEGORY, PlanType, ProfileType, given

TARGETS = ("preset", "speedup", "density", "error", "lambda", "epsilon")  # as plans name them


class PreviewPlan(io.ComfyNode):
    """Draws the plan and shows it on the node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTPreviewPlan",
            display_name="Sparse-vDiT Preview Sparse Plan",
            category=CATEGORY,
            description="Shows a plan: a map of layers and heads coloured by pattern, one for each noise range, and a "
            "summary.",
            search_aliases=["preview plan", "show plan", "view plan"],
            is_output_node=True,
            inputs=[
                PlanType.Input("plan", tooltip="The plan to show."),
                ProfileType.Input(
                    "profile",
                    optional=True,
                    tooltip="Optional, from Profile Heads or Load Sparse Plan: also shows what the head attends.",
                ),
                *(
                    io.Int.Input(name, default=0, min=0, max=most - 1, optional=True, tooltip=tooltip)
                    for name, most, tooltip in (
                        ("layer", MAX_LAYERS, "Layer of the head to show, counted from 0."),
                        ("head", MAX_HEADS, "Head to show, counted from 0."),
                        ("band", MAX_BANDS, "Noise range to show, counted from 0, the noisiest."),
                    )
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The map, one row for each layer."),
                io.String.Output(display_name="summary", tooltip="The plan in words, and where it comes from."),
                io.Image.Output(display_name="head", tooltip="The pattern of one head, and what it attends."),
            ],
        )

    @classmethod
    def execute(
        cls, plan: Plan, profile: Profile | None = None, layer: int = 0, head: int = 0, band: int = 0
    ) -> io.NodeOutput:
        """Pictures and words.

        Raises:
            ValueError: a head that the plan does not have.
        """
        plan = given(plan)
        image = as_image(draw_plan(plan))
        beside = as_image(draw_head(plan, fitting_maps(plan, profile), band, layer, head))
        text = summary(plan)
        shown = ui.PreviewImage(image, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(image, text, beside, ui=shown)


def as_image(picture: np.ndarray) -> Tensor:
    """A picture, uint8 RGB (H, W, 3), as ComfyUI has them: (1, H, W, 3) in 0..1."""
    return torch.from_numpy(picture.copy()).float()[None] / 255


def summary(plan: Plan) -> str:
    """A plan in words: model, density, patterns, bands, origin."""
    density = plan.density()
    kinds = ", ".join(f"{kind} {count}" for kind, count in plan.counts().items() if count)
    frames, height, width = plan.grid
    lines = [
        f"{plan.family}: {plan.layers} layers of {plan.heads} heads x {plan.head_dim}, grade {plan.grade}",
        f"mean density {density:.2f} on {frames}x{height}x{width} tokens",
        f"heads by pattern: {kinds}",
        *speedups(plan),
    ]
    for number, band in enumerate(plan.bands):
        lines.append(f"band {number}: {band.levels()}")
    origin = plan.provenance
    parameters = origin.parameters
    targets = ", ".join(f"{name} {parameters[name]}" for name in TARGETS if name in parameters)
    rule = f"{origin.rule}, {targets}" if targets else origin.rule
    known = {"model": origin.model, "rule": rule, "date": origin.date, "source": origin.source}
    lines += [f"{name}: {value}" for name, value in known.items() if value]
    lines += [f"measured on: {', '.join(origin.prompts)}"] if origin.prompts else []
    error, margin = (parameters.get(name) for name in ("predicted_error", "predicted_error_margin"))
    if isinstance(error, float) and isinstance(margin, float):
        lines.append(f"expected error of attention {error:.1%} +- {margin:.1%} or more (errors of heads added)")
    lines += filter(None, [expected_distance(plan), skip_warning(plan)])
    if plan.card is not None:
        lines += [f"measured: {plan.card.measured}", f"not measured: {plan.card.not_measured}"]
    if origin.notes:
        lines.append(origin.notes)
    return "\n".join(lines)


def speedups(plan: Plan) -> list[str]:
    """What to expect of a plan, and how it is known."""
    faster, times = plan_speedup(plan)
    if faster >= NO_ATTENTION:
        return ["expected: no attention is computed"]
    share = f"{attention_share(plan):.0%}"
    return [
        f"expected: attention {faster:.2f} times as fast ({times})",
        f"expected: a whole step {step_speedup(plan):.2f} times as fast (attention is about {share} of its operations)",
    ]
