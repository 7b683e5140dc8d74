"""Save Sparse Plan: keeps a plan where Load Sparse Plan finds it."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..plans.files import plan_bytes
from ..plans.plan import Plan
from ..plans.profile import Profile
from ..plans.profile_files import profile_bytes
from ..plans.writing import write_all
from .host.plan_folders import FOLDER, user_file
from .sockets import CATEGORY, PlanType, ProfileType


class SavePlan(io.ComfyNode):
    """Writes the plan, and the profile when one is connected."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTSavePlan",
            display_name="Save Sparse Plan",
            category=CATEGORY,
            description=f"Saves a plan in models/{FOLDER}, where Load Sparse Plan lists it as user/<name>.",
            search_aliases=["save plan", "sparse plan", "export plan"],
            is_output_node=True,
            inputs=[
                PlanType.Input("plan", tooltip="The plan to save, from Search Sparse Plan."),
                io.String.Input("file_name", default="my_plan", tooltip="Name of the file, without folder and ending."),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace a different plan of this name. Off: that is an error, and nothing is written.",
                ),
                ProfileType.Input(
                    "profile",
                    optional=True,
                    tooltip="Kept beside the plan as .safetensors.",
                ),
            ],
            outputs=[PlanType.Output(display_name="plan", tooltip="The same plan, to go on with.")],
        )

    @classmethod
    def execute(cls, plan: Plan, file_name: str, overwrite: bool, profile: Profile | None = None) -> io.NodeOutput:
        """Saved plan.

        Raises:
            ValueError: a name with folders or signs that file systems refuse.
            FileExistsError: another plan or profile of this name, and overwrite is off; nothing is written.
        """
        files = {user_file(file_name, ".json"): plan_bytes(plan)}
        if profile is not None:
            files[user_file(file_name, ".safetensors")] = profile_bytes(profile)
        write_all(files, overwrite)
        return io.NodeOutput(plan, ui=ui.PreviewText("saved " + ", ".join(path.name for path in files)))
