"""Load Sparse Plan: a shipped or own plan by its name."""

from __future__ import annotations

import hashlib
import logging

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..plans.files import load_plan
from ..plans.kept_dense import kept_dense, with_dense
from ..plans.profile_files import ProfileError, load_profile
from .host.plan_folders import FOLDER, plan_files, profile_beside
from .host.plan_names import named
from .sockets import CATEGORY, PlanType, ProfileType, keep_dense_input, keeps_dense

LOG = logging.getLogger("sparse_vdit")
NOTHING = "(no plan yet: the patch node finds one, or make one with Profile Heads)"


class LoadPlan(io.ComfyNode):
    """Lists shipped plans and the user's, reads and checks the chosen one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTLoadPlan",
            display_name="Load Sparse Plan",
            category=CATEGORY,
            description="Loads the plan that says which pattern each attention head runs. Your own lie "
            f"in models/{FOLDER}, those that the patch node found while sampling in its folder calibrated.",
            search_aliases=["sparse plan", "load plan", "sparse attention", "faster", "speed"],
            inputs=[
                io.Combo.Input(
                    "plan_name",
                    options=list(plan_files()) or [NOTHING],
                    tooltip="Plans that ship with the pack stand under their model's family, your own under user. "
                    f"Put plan files into models/{FOLDER} and press R to see them here.",
                ),
                keep_dense_input("The plan that comes out has those heads dense."),
            ],
            outputs=[
                PlanType.Output(display_name="plan", tooltip="For Sparse-vDiT Patch Model."),
                ProfileType.Output(
                    display_name="profile",
                    tooltip="The measurements saved beside the plan, for Search Sparse Plan; an error where none are.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, plan_name: str, keep_dense: str = "") -> bool | str:
        """Name the mend when a workflow asks for a plan that is not here."""
        if plan_name in plan_files():
            return keeps_dense(keep_dense)
        if plan_name == NOTHING:
            return "no plan is chosen: choose one, or make it with Profile Heads, Search Sparse Plan, Save Sparse Plan"
        return f"plan {plan_name!r} is not here: choose another, or put its file into models/{FOLDER}"

    @classmethod
    def fingerprint_inputs(cls, plan_name: str, keep_dense: str = "") -> str:
        """The file's content and the profile's age, so that what was edited is read again."""
        path = plan_files().get(plan_name)
        if path is None:
            return ""
        beside = profile_beside(path)
        changed = f"{beside.stat().st_mtime_ns}" if beside.is_file() else ""
        return hashlib.sha256(path.read_bytes()).hexdigest() + changed

    @classmethod
    def execute(cls, plan_name: str, keep_dense: str = "") -> io.NodeOutput:
        """The checked plan, and the profile beside it where something wants it.

        Raises:
            ValueError: no plan of the name, or a layer to keep dense that it does not have.
        """
        path = plan_files().get(plan_name)
        if path is None:
            raise ValueError(cls.validate_inputs(plan_name))
        beside = profile_beside(path)
        try:
            profile = load_profile(beside)
        except (ProfileError, OSError) as error:  # matters to those alone who want it
            missing = f"no profile beside plan {plan_name!r}: {error}; use Profile Heads"
            LOG.info("Sparse-vDiT: %s", missing)  # ComfyUI shows it on the node alone
            profile = ExecutionBlocker(missing)
        return io.NodeOutput(named(with_dense(load_plan(path), kept_dense(keep_dense)), plan_name), profile)
