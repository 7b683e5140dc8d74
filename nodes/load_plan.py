"""Load Sparse Plan: a shipped or own plan by its name, or one that travels in the workflow as text."""

from __future__ import annotations

import difflib
import logging

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..plans.plan.files import PlanError, load_plan
from ..plans.plan.text import plan_from_text
from ..plans.profile.profile_files import ProfileError, load_profile
from .host.library.folders import FOLDER, file_state, plan_files, profile_beside
from .host.ui.viewer import SHOWN, shown_plan
from .sockets import CATEGORY, PlanType, ProfileType

LOG = logging.getLogger("sparse_vdit")
NOTHING = "(no plan yet: Sparse-vDiT Patch finds one, or make one with Profile Heads)"
STOP, CHOOSE = "stop with an error", "let the patch node choose"
SHARED = "shared in the workflow"
LISTED, MAX_SHOWN = 3, 200  # names in an error, characters of one


class LoadPlan(io.ComfyNode):
    """Lists shipped plans and the user's, reads and checks the chosen one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTLoadPlan",
            display_name="Sparse-vDiT Load Sparse Plan",
            category=CATEGORY,
            description="Loads a plan, which says which pattern each attention head runs: one that ships, your own "
            f"from models/{FOLDER}, or one that Sparse-vDiT Patch found (folder calibrated).",
            search_aliases=["load plan", "plan"],
            inputs=[
                io.Combo.Input(
                    "plan_name",
                    options=list(plan_files()) or [NOTHING],
                    tooltip="Shipped plans are listed by model family, your own under user. Put plan files into "
                    f"models/{FOLDER} and press R to list them.",
                ),
                io.Combo.Input(
                    "if_missing",
                    options=[STOP, CHOOSE],
                    default=STOP,
                    optional=True,
                    tooltip="If the plan file is missing: stop with an error, or let the patch node choose a plan.",
                ),
                io.String.Input(
                    "plan_text",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="A plan as text, from Save Sparse Plan. It is saved in the workflow, so others get the "
                    "same plan. plan_name is then ignored. Leave it empty to use plan_name.",
                ),
            ],
            outputs=[
                PlanType.Output(display_name="plan", tooltip="For Sparse-vDiT Patch."),
                ProfileType.Output(
                    display_name="profile",
                    tooltip="The measurements saved with the plan, for Search Sparse Plan. An error if there are none.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, plan_name: str | None, if_missing: str = STOP, plan_text: str | None = ""
    ) -> bool | str:
        """Say what to do where a workflow asks for a plan that is not here, or holds a text that is not a plan. A value
        that another node gives is None here, and is checked when the node runs."""
        if plan_text is None or (plan_name is None and not plan_text.strip()):
            return True
        if plan_text.strip():
            try:
                plan_from_text(plan_text)
            except PlanError as error:
                return str(error)
            return True
        if plan_name in plan_files() or if_missing == CHOOSE:
            return True
        if plan_name == NOTHING:
            return "no plan is chosen: choose one, or make one with Profile Heads and Search Sparse Plan"
        return missing(plan_name)

    @classmethod
    def fingerprint_inputs(
        cls, plan_name: str | None, if_missing: str = STOP, plan_text: str | None = ""
    ) -> str:
        """The text, or what changes with the plan's file and its profile's, so that what was edited is read again."""
        path = plan_files().get(plan_name)
        if path is None or plan_text is None or plan_text.strip():
            return plan_text or ""
        return f"{path} {file_state(path)} {file_state(profile_beside(path))}"

    @classmethod
    def execute(cls, plan_name: str, if_missing: str = STOP, plan_text: str = "") -> io.NodeOutput:
        """The checked plan, None where it is missing and may be; and the profile beside it where something wants it.

        Raises:
            ValueError: no plan of the name.
        """
        if plan_text.strip():
            shared = plan_from_text(plan_text).named(SHARED)
            nothing = _no_profile(f"a plan {SHARED} has no profile")
            return io.NodeOutput(shared, nothing, ui={SHOWN: [shown_plan(shared, SHARED, None)]})
        path = plan_files().get(plan_name)
        if path is None:
            allowed = cls.validate_inputs(plan_name, if_missing)
            if allowed is not True:
                raise ValueError(allowed)
            LOG.warning("Sparse-vDiT: plan %r is not here, the patch node chooses", plan_name)
            return io.NodeOutput(None, _no_profile(f"plan {plan_name!r} is not here"))
        beside = profile_beside(path)
        try:
            profile = load_profile(beside)
        except (ProfileError, OSError) as error:  # matters to those alone who want it
            profile = _no_profile(f"plan {plan_name!r} has no profile: {error}")
        return io.NodeOutput(load_plan(path).named(plan_name), profile)


def _no_profile(why: str) -> ExecutionBlocker:
    """In the place of a profile: stops what wants one, and only that."""
    return ExecutionBlocker(f"{why}; use Profile Heads")


def missing(plan_name: str) -> str:
    """Why a plan cannot be loaded, the names most like its own, and what to do."""
    names, wanted = list(plan_files()), plan_name[:MAX_SHOWN]
    alike = ", ".join(difflib.get_close_matches(wanted, names, LISTED, 0.0))
    here = f"Of the {len(names)} plans here, these have similar names: {alike}" if names else "No plan is here"
    return (
        f"plan {wanted!r} is not here: choose another, put its file into models/{FOLDER}, or set if_missing to "
        f"{CHOOSE!r}. {here}"
    )
