"""Sparse-vDiT Patch: sparse attention for a loaded model."""

from __future__ import annotations

from functools import partial

from comfy_api.latest import io

from ..kernels.attention import AUTO, BACKENDS
from ..plans.plan.plan import Plan
from ..plans.plan.presets import DEFAULT_PRESET, PRESETS
from ..plans.search.kept_dense import kept_dense, missing_layers
from .host.core.fallback import Dense
from .host.hooks.install import install
from .host.policies.calibrate import CalibrationPolicy
from .host.select import KEEP_START, SKIP_START, PatchOptions, select_policy
from .host.session.run import Run
from .host.ui.progress import end_progress
from .host.ui.report import report
from .sockets import CATEGORY, PRESET_TOOLTIP, PlanType, noise_inputs


class PatchModel(io.ComfyNode):
    """Clones the MODEL and adds the pack's wrappers; all decisions fall when sampling runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTPatchModel",
            display_name="Sparse-vDiT Patch",  # shorter than all ids: a search for "sparse" lists it first
            category=CATEGORY,
            description="Makes video models faster: each attention head computes only the part of the video that it "
            "needs. After each run, the node says whether it was faster and why.",
            search_aliases=["patch model", "sparse attention", "faster", "faster video", "speed", "speed up"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Wan 2.1 and 2.2 (also VACE, Fun Control, Camera, Phantom), HunyuanVideo and 1.5, "
                    "CogVideoX, MiniMax H3 or LTX. Other models stay as they are. LoRAs, attention backends and "
                    "torch.compile can come before or after this node.",
                ),
                PlanType.Input(
                    "plan",
                    optional=True,
                    tooltip="Which pattern each head runs, from Load Sparse Plan or Search Sparse Plan. Leave it empty "
                    "to let the node choose: a measured plan that ships, or one that it finds in the first run and "
                    "keeps.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default=DEFAULT_PRESET,
                    tooltip=PRESET_TOOLTIP + " Ignored when a plan is connected.",
                ),
                *noise_inputs(),
                io.Boolean.Input(
                    "strict",
                    default=False,
                    advanced=True,
                    tooltip="Stop with an error when nothing ran sparse. Off: only a warning.",
                ),
                io.Combo.Input(
                    "backend",
                    options=[AUTO, *BACKENDS],
                    default=AUTO,
                    advanced=True,
                    tooltip="auto: the first backend that runs here. triton: needs a GPU and Triton. compiled: needs "
                    "an NVIDIA card. torch: runs anywhere, slowly. A backend chosen by name is not timed against "
                    "dense.",
                ),
                io.Boolean.Input(
                    "only_if_faster",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Times sparse and dense attention, and stays dense where sparse is not at least 5 % "
                    "faster. Off: runs the plan untimed. Needs backend auto.",
                ),
                io.Boolean.Input(
                    "verbose",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Writes all details of the run (patterns, densities, steps, times) as JSON to the log and "
                    "to a new file in output/sparse_vdit.",
                ),
                io.Boolean.Input(
                    "calibrate",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="For models without a measured plan: measures the heads in the first two runs and keeps "
                    "the plan in models/sparse_vdit_plans/calibrated. It does not change from the third run on. Off: "
                    "such models stay dense, and shipped plans run as they are.",
                ),
                io.String.Input(
                    "keep_dense",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Layers and kinds of patterns to keep dense, for example: 0, 3-5, skip. The map on this "
                    "node fills it in. It applies to every plan.",
                ),
                io.Combo.Input(
                    "few_steps",
                    options=[SKIP_START, KEEP_START],
                    default=KEEP_START,
                    optional=True,
                    tooltip="For schedules of 8 steps or fewer. auto: plans found by this node run from the first "
                    "step, whatever start_percent says; faster, but the layout may change. keep the dense start: "
                    "start_percent always counts. The default changes no layout unasked.",
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
        few_steps: str = KEEP_START,
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
            plan, preset, start_percent, end_percent, backend, only_if_faster, calibrate, node_id, kept, few_steps
        )

        def finish(run: Run | Dense) -> None:
            if isinstance(run, Run) and isinstance(run.policy, CalibrationPolicy):
                run.policy.keep()
                end_progress(node_id)  # of what was measured, where not all was
            report(run, node_id, strict, verbose)

        patched = model.clone()
        install(patched, partial(select_policy, options), finish)
        return io.NodeOutput(patched)
