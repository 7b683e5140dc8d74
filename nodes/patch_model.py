"""Sparse-vDiT Patch Model: sparse attention for a loaded model."""

from __future__ import annotations

from comfy_api.latest import io
from torch import nn

from ..kernels.attention import AUTO, BACKENDS
from ..plans.binding import BoundPlan
from ..plans.plan import Plan
from ..plans.presets import DEFAULT_PRESET, PRESETS
from ..plans.versions import installed_versions
from .host import reasons
from .host.families import Family
from .host.install import install, pause_malloc_graph
from .host.plan_engine import PlanEngine
from .host.plan_names import plan_name
from .host.race import Race, facts
from .host.report import report, say, speeds_file
from .host.run import Run
from .host.shipped_plans import shipped_plan
from .sockets import CATEGORY, PlanType


class PatchModel(io.ComfyNode):
    """Clones the MODEL and adds the pack's wrappers; all decisions fall when sampling runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTPatchModel",
            display_name="Sparse-vDiT Patch Model",
            category=CATEGORY,
            description="Makes a video model faster: every attention head computes only what its plan says it needs. "
            "A line on this node and in the log says after each run what ran sparse, what ran dense, and why.",
            search_aliases=["faster", "speed", "speed up", "sparse attention", "sage", "sageattention", "wan faster"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Wan 2.1 and 2.2 with VACE, Fun Control, Camera and Phantom, HunyuanVideo and 1.5, "
                    "CogVideoX, MiniMax H3, LTX. Other models pass through unchanged, and the report says so. LoRAs, "
                    "attention backends and torch.compile may come before or after.",
                ),
                PlanType.Input(
                    "plan",
                    optional=True,
                    tooltip="Which pattern each head runs, from Load Sparse Plan or Search Sparse Plan. Without one, "
                    "the plan shipped for the model is used; where none is shipped, everything runs dense.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default=DEFAULT_PRESET,
                    tooltip="Which shipped plan to use: faithful stays closest to the dense video, fast is quickest. "
                    "Ignored when a plan is connected.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Part of the noise schedule that stays dense at the beginning (warm-up), where the video's "
                    "layout is decided. Counted in noise, not steps, so that two samplers may share one schedule.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Part of the noise schedule after which attention is dense again. 1 is never.",
                ),
                io.Boolean.Input(
                    "strict",
                    default=False,
                    advanced=True,
                    tooltip="Stop with an error that names the reasons when nothing ran sparse, instead of a warning.",
                ),
                io.Combo.Input(
                    "backend",
                    options=[AUTO, *BACKENDS],
                    default=AUTO,
                    advanced=True,
                    tooltip="auto takes the first that can run the call, and with only_if_faster the fastest of its "
                    "kernels that is exact enough; the report says which. triton needs a GPU and Triton; compiled an "
                    "NVIDIA card alone; torch runs anywhere and is slow. A named one is always obeyed, never timed "
                    "against dense.",
                ),
                io.Boolean.Input(
                    "only_if_faster",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Time the model's own attention and the sparse one, and stay dense where sparse is not at "
                    "least 5 % faster. Off runs the plan without timing. Only for backend auto.",
                ),
                io.Boolean.Input(
                    "verbose",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Write every detail of the run (pattern and density of each head, counts of each step, "
                    "times) as JSON to the log and to a new file under output/sparse_vdit.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with sparse attention.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: object,
        preset: str,
        start_percent: float,
        end_percent: float,
        strict: bool,
        backend: str,
        plan: Plan | None = None,
        only_if_faster: bool = True,
        verbose: bool = False,
    ) -> io.NodeOutput:
        """The patched clone.

        Raises:
            ValueError: end_percent before start_percent.
        """
        if end_percent < start_percent:
            raise ValueError(
                f"end_percent {end_percent} is before start_percent {start_percent}, nothing would be sparse"
            )
        node_id = cls.hidden.unique_id
        preset_ignored = plan is not None and preset != DEFAULT_PRESET

        def make_engine(patcher: object, diffusion_model: nn.Module, family: Family) -> PlanEngine | str:
            shape = family.shape(diffusion_model)
            chosen = plan or shipped_plan(family.name, shape, preset)
            reason = refusal(chosen, family.name, shape)
            if reason is not None:
                return reason
            percent_to_sigma = patcher.get_model_object("model_sampling").percent_to_sigma
            return PlanEngine(
                chosen,
                float(percent_to_sigma(start_percent)),
                float(percent_to_sigma(end_percent)),
                backend,
                pause_malloc_graph,
                lambda text: say(text, node_id),
                Race(model_facts(family, shape), speeds_file()) if only_if_faster else None,
            )

        def finish(run: Run) -> None:
            if preset_ignored:
                run.ledger.note(f"preset {preset} ignored, a plan is connected")
            report(run, node_id, strict, verbose)

        patched = model.clone()
        install(patched, make_engine, finish)
        return io.NodeOutput(patched)


def model_facts(family: Family, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """What the speed of a model's attention hangs on, beside the call and the device."""
    layers, heads, head_dim = shape
    versions = {name: version for name, version in installed_versions().items() if name != "python"}
    return facts({"model": f"{family.name} {layers} x {heads} x {head_dim}", **versions})


def refusal(plan: Plan | None, family: str, shape: tuple[int, int, int]) -> str | None:
    """Why a plan cannot run on a model of (layers, heads, head_dim), None when it can."""
    if plan is None:
        return reasons.NO_PLAN
    mismatch = BoundPlan(plan).mismatch(family, *shape)
    return mismatch and reasons.other_model(plan_name(plan), mismatch)
