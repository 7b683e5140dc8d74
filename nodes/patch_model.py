"""Sparse-vDiT Patch Model: sparse attention for a loaded model."""

from __future__ import annotations

from functools import partial

from comfy_api.latest import io

from ..kernels.attention import AUTO, BACKENDS
from ..plans.plan.plan import Plan
from ..plans.plan.presets import DEFAULT_PRESET, PRESETS
from ..plans.search.kept_dense import kept_dense, missing_layers
from .host.core.fallback import Dense
from .host.hooks.install import install
from .host.hooks.sampling import DEFAULT_START
from .host.policies.calibrate import CalibrationPolicy
from .host.select import PatchOptions, select_policy
from .host.session.run import Run
from .host.ui.progress import end_progress
from .host.ui.report import report
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
                    "what ships for the model is used; where nothing measured ships, a plan is found in the dense "
                    "steps of the first run, and kept for the next.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default=DEFAULT_PRESET,
                    tooltip="Which plan to use or find: faithful stays closest to the dense video, fast is quickest. "
                    "Ignored when a plan is connected.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=DEFAULT_START,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Part of the noise schedule that stays dense at the beginning (warm-up), where the video's "
                    "layout is decided. Counted in noise, not steps, so that two samplers may share one schedule. "
                    "Plans found while sampling run without it in schedules of 8 steps or fewer, from the second "
                    "generation on; more than 0.2 keeps it.",
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
                io.Boolean.Input(
                    "calibrate",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Measure the heads in the first run, and in the second what the first has left out. The "
                    "plan they give is kept in models/sparse_vdit_plans/calibrated, and stays as it is from the third "
                    "run on. Only for models without a measured plan. Off leaves such models dense, kept plans unused, "
                    "and runs a prior as it ships.",
                ),
                io.String.Input(
                    "keep_dense",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Layers and kinds of patterns to keep dense, separated by commas: 0, 3-5, skip. The map on "
                    "this node writes it. It holds for every plan that runs, connected or found.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with sparse attention.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, keep_dense: str | None = "") -> bool | str:
        """Refuse what cannot be kept dense before anything is loaded; None is what another node gives later."""
        try:
            kept_dense(keep_dense or "")
        except ValueError as error:
            return str(error)
        return True

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
        calibrate: bool = True,
        keep_dense: str = "",
    ) -> io.NodeOutput:
        """The patched clone.

        Raises:
            ValueError: end_percent before start_percent, or a layer to keep dense that the plan does not have.
        """
        if end_percent < start_percent:
            raise ValueError(
                f"end_percent {end_percent} is before start_percent {start_percent}, nothing would be sparse: lower "
                "start_percent or raise end_percent"
            )
        kept = kept_dense(keep_dense)
        why = None if plan is None else missing_layers(plan.layers, kept)
        if why is not None:
            raise ValueError(why)
        node_id = cls.hidden.unique_id
        options = PatchOptions(
            plan, preset, start_percent, end_percent, backend, only_if_faster, calibrate, node_id, kept
        )

        def finish(run: Run | Dense) -> None:
            if isinstance(run, Run) and isinstance(run.policy, CalibrationPolicy):
                run.policy.keep()
                end_progress(node_id)  # of what was measured, where not all was
            report(run, node_id, strict, verbose)

        patched = model.clone()
        install(patched, partial(select_policy, options), finish)
        return io.NodeOutput(patched)
